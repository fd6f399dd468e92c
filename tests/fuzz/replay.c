/* Every file named, through LLVMFuzzerTestOneInput: the seed corpus without libFuzzer, by any
 * compiler.
 *
 * Knows: files.   Must not know: what they hold.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 1 << 16 };

int main(int argument_count, char **arguments) {
    static uint8_t bytes[MOST_BYTES];
    for (int k = 1; k < argument_count; ++k) {
        FILE *file = fopen(arguments[k], "rb");
        if (!file) {
            perror(arguments[k]);
            return 2;
        }
        fprintf(stderr, "%s\n", arguments[k]);
        const size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    printf("%d inputs replayed\n", argument_count - 1);
    return 0;
}
