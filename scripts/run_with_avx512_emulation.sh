#!/usr/bin/env bash
# Run a statically linked x86-64 Linux program on an emulated processor that has AVX-512 (F, CD, DQ, BW, VL), on any
# x86-64 machine: prints the program's stdout and stderr when it has ended, and exits with its status.
#
#     scripts/run_with_avx512_emulation.sh [--install] PROGRAM [ARGS...]
#
# Knows: how to boot a Linux that holds one program inside the Bochs emulator.   Must not know: what the program does.
# Needs: the Debian 12 packages below (--install, for root only, installs them) and a Linux kernel, which is downloaded
# as a Debian package and unpacked into a temporary folder. EMULATION_KERNEL=/path/to/vmlinuz takes another instead.
# Status 125: the program did not finish within EMULATION_TIMEOUT seconds (default 600), or was never started; the
# last words of the kernel and of the emulator are then on stderr.
#
# Cost: 20 s of processor time to boot; then about 40 million scalar or 2 to 5 million 512-bit instructions a second,
# and 20 kB of output a second: print digests, not arrays. The program sees one processor, 256 MiB of memory, empty
# stdin, no file but itself, no environment to speak of, and a clock that does not keep real time.
set -Eeuo pipefail
trap 'exit 125' ERR

packages=(bochs bochs-term bochsbios busybox-static cpio genisoimage isolinux syslinux-common vgabios)
kernel_package=linux-image-cloud-amd64 # compressed with LZ4 and short of drivers: the quickest to boot

if [[ ${1-} == --install ]]; then
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}" >&2
    shift
fi
if [[ ! -x ${1-} ]]; then
    echo "usage: $0 [--install] PROGRAM [ARGS...]" >&2
    exit 125
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

write_kernel() {
    local package
    if [[ -n ${EMULATION_KERNEL-} ]]; then
        cp "$EMULATION_KERNEL" "$work/disc/vmlinuz"
        return
    fi
    package=$(apt-cache depends "$kernel_package" | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p')
    (cd "$work" && apt-get download --quiet=2 --option APT::Sandbox::User=root "$package")
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb | tar --extract --to-stdout --wildcards './boot/vmlinuz-*' \
        >"$work/disc/vmlinuz"
}

# The first process. Serial ports 2, 3 and 4 carry stdout, stderr and the status out of the emulator, byte for byte.
write_initial_ram_disk() { # program, arguments...
    local root=$work/root
    mkdir -p "$root/dev"
    cp /bin/busybox "$root/busybox"
    install -m 755 "$1" "$root/program"
    cat >"$root/init" <<END
#!/busybox sh
set_ports_raw() { for port in 1 2 3; do /busybox stty raw -F /dev/ttyS\$port; done; } # waits until all is sent
/busybox mount -t devtmpfs devtmpfs /dev
set_ports_raw
$(printf '%q ' /program "${@:2}") </dev/null >/dev/ttyS1 2>/dev/ttyS2
echo \$? >/dev/ttyS3
set_ports_raw
/busybox reboot -f
END
    chmod 755 "$root/init"
    (cd "$root" && find . | cpio --create --format=newc --quiet) >"$work/disc/initrd"
}

# clearcpuid: Bochs 2.7 misreports the size of the compacted register state, at which Linux would turn AVX off.
# reboot=t, panic=-1: the end, good or bad, is a triple fault, at which the emulator stops. The second line and the
# third save time: the self-tests of ciphers alone take as long as all the rest.
kernel_options=(
    console=ttyS0 quiet "clearcpuid=xsavec,xsaves" reboot=t panic=-1
    cryptomgr.notests mitigations=off acpi=off edd=off
    "initcall_blacklist=trace_eval_init,tracer_init_tracefs,load_system_certificate_list"
)

write_boot_disc() {
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disc"
    printf 'default linux\nlabel linux\nkernel vmlinuz\ninitrd initrd\nappend %s\n' "${kernel_options[*]}" \
        >"$work/disc/isolinux.cfg"
    genisoimage -quiet -output "$work/disc.iso" -eltorito-boot isolinux.bin -eltorito-catalog boot.cat \
        -no-emul-boot -boot-load-size 4 -boot-info-table "$work/disc"
}

# ips is how fast the emulated clock runs, not a limit: a low one shortens what firmware and kernel spend waiting.
write_emulator_configuration() {
    cat >"$work/bochsrc" <<'END'
cpu: model=corei7_skylake_x, ips=10000000, reset_on_triple_fault=0
memory: guest=256, host=256
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
config_interface: textconfig
display_library: term
plugin_ctrl: gameport=false, parallel=false, speaker=false, usb_uhci=false
ata0-master: type=cdrom, path=disc.iso, status=inserted
boot: cdrom
com1: enabled=true, mode=file, dev=kernel.txt
com2: enabled=true, mode=file, dev=stdout
com3: enabled=true, mode=file, dev=stderr
com4: enabled=true, mode=file, dev=status
log: emulator.txt
info: action=ignore
error: action=ignore
panic: action=fatal
END
    echo continue >"$work/debugger_commands" # Debian's build starts in its debugger
}

# Its own exit status says nothing, since it always ends on a triple fault or a signal.
emulate() (
    cd "$work"
    touch kernel.txt stdout stderr status emulator.txt
    TERM=linux timeout --signal=KILL "${EMULATION_TIMEOUT:-600}" bochs-bin -q -f bochsrc -rc debugger_commands || true
)

mkdir "$work/disc"
write_kernel
write_initial_ram_disk "$@"
write_boot_disc
write_emulator_configuration
emulate </dev/null >"$work/screen.txt" 2>&1

cat "$work/stdout"
cat "$work/stderr" >&2
status=$(<"$work/status")
if [[ ! $status =~ ^[0-9]+$ ]]; then
    echo "$0: the program did not finish" >&2
    tail -n 20 "$work"/{kernel,emulator,screen}.txt >&2
    exit 125
fi
exit "$status"
