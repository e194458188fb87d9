//! `run-qemu.sh` as a user meets it. A stand-in takes QEMU's place, so nothing is built or booted.
//!
//! The stand-in prints its arguments, one a line, and then does what the kernel's first argument says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const QEMU: &str = r#"#!/bin/sh
[ "$1" = --version ] && echo "QEMU emulator version ${VERSION:-7.2.22} (stand-in)" && exit
printf '%s\n' "$@"
for argument; do
    case $argument in
    if=none,*,file=*) echo "a disk of $(stat -c %s "${argument#*,file=}") bytes" ;;
    esac
done
case "$*" in
*arg=hang*) exec sleep 60 ;;
*arg=fail*) exit 3 ;;
esac
"#;

/// A directory of its own, whose name has a space, with the stand-in and an image in it.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("launcher {test}"));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("image"), "").unwrap();
        let qemu = place.join("qemu");
        fs::write(&qemu, QEMU).unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        Self(place)
    }

    /// Runs a copy of the launcher that lies in this directory, from another one.
    fn launch(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let launcher = self.0.join("run-qemu.sh");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("run-qemu.sh"), &launcher).unwrap();
        let mut command = Command::new("bash");
        command.arg(&launcher).args(["--smmu", "qemu", "--qemu"]).arg(self.0.join("qemu"));
        command.args(arguments).current_dir("/");
        command
    }

    fn image(&self) -> String {
        self.0.join("image").to_str().unwrap().to_string()
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn is_argument(output: &Output, argument: &str) -> bool {
    stdout(output).lines().any(|line| line == argument)
}

#[test]
fn unknown_options_values_and_commands_are_named() {
    let place = Place::new("unknown");
    for (arguments, named) in [
        (&["--frobnicate"][..], "--frobnicate"),
        (&["--smp", "9"], "'9'"),
        (&["--smp", "0"], "'0'"),
        (&["--smp", "two"], "'two'"),
        (&["--smp"], "--smp"),
        (&["--engines", "0"], "'0'"),
        (&["--engines", "65"], "'65'"),
        (&["--engines"], "--engines"),
        (&["--smmu", "amd"], "'amd'"),
        (&["--profile", "huge"], "'huge'"),
        (&["--profile"], "--profile"),
        (&["--device", "edu,addr=1"], "'edu,addr=1'"),
        (&["--device"], "--device"),
        (&["--timeout", "0"], "'0'"),
        (&["--seed", "-1"], "'-1'"),
        (&["--smmu", "qemu", "--no-its"], "--no-its"),
        (&["--test"], "--test"),
        (&["--test", "boot::this_is_the_first_core"], "--test"),
        (&["frobnicate"], "'frobnicate'"),
    ] {
        let output = place.launch(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(named), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn help_names_every_option() {
    let output = Place::new("help").launch(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for option in [
        "--smp",
        "--engines",
        "--smmu",
        "--profile",
        "--no-its",
        "--device",
        "--lenient",
        "--deterministic",
        "--seed",
        "--test",
        "--timeout",
        "--qemu",
        "test",
        "gdb",
    ] {
        assert!(stdout(&output).contains(option), "{option}");
    }
}

#[test]
fn end_of_the_kernel_is_the_end_of_the_launcher() {
    let place = Place::new("status");
    assert_eq!(place.launch(&[&place.image()]).status.code(), Some(0));
    assert_eq!(place.launch(&[&place.image(), "fail"]).status.code(), Some(3));
}

#[test]
fn hang_ends_at_the_time_out_and_says_so() {
    let place = Place::new("hang");
    let output = place.launch(&["--timeout", "1", &place.image(), "hang"]);
    assert_eq!(output.status.code(), Some(124));
    assert!(stderr(&output).contains("hung: no end after 1 s"), "{}", stderr(&output));
}

#[test]
fn arguments_reach_the_kernel_unchanged() {
    let place = Place::new("arguments");
    let output = place.launch(&[&place.image(), "--exact", "a,b"]);
    let expected = "enable=on,target=native,arg=smmu-iopf,arg=--exact,arg=a,,b";
    assert!(is_argument(&output, expected), "{}", stdout(&output));
}

#[test]
fn options_of_the_model_come_after_the_arguments() {
    let place = Place::new("model");
    let output = place.launch(&["--engines", "064", "--profile", "small", &place.image(), "--exact", "a"]);
    let expected = "enable=on,target=native,arg=smmu-iopf,arg=--exact,arg=a,arg=profile=small,arg=engines=64";
    assert!(is_argument(&output, expected), "{}", stdout(&output));
}

/// The launcher with a model image to boot, which it does not build: `cargo` is a stand-in too.
fn launch_with_model(place: &Place, arguments: &[&str]) -> Output {
    let cargo = place.0.join("cargo");
    fs::write(&cargo, "#!/bin/sh\necho '{\"target_directory\":\"/nowhere\"}'\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths([place.0.as_os_str(), "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
    place.command(arguments).env("PATH", path).output().unwrap()
}

#[test]
fn the_model_is_strict_unless_told_otherwise() {
    let place = Place::new("strict");
    for (options, expected) in [
        (&["--smmu", "model"][..], "enable=on,target=native,arg=smmu-iopf,arg=--exact,arg=strict"),
        (&["--smmu", "both"], "enable=on,target=native,arg=smmu-iopf,arg=--exact,arg=strict"),
        (&["--smmu", "model", "--lenient"], "enable=on,target=native,arg=smmu-iopf,arg=--exact"),
        (&["--smmu", "qemu"], "enable=on,target=native,arg=smmu-iopf,arg=--exact"),
    ] {
        let output = launch_with_model(&place, &[options, &[&place.image(), "--exact"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(is_argument(&output, expected), "{options:?}: {}", stdout(&output));
    }
}

#[test]
fn tests_are_listed_without_the_model() {
    let place = Place::new("list");
    let output = place.launch(&["--smmu", "both", &place.image(), "--list", "--format", "terse"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(is_argument(&output, "virt,gic-version=3,iommu=smmuv3"), "{}", stdout(&output));
}

#[test]
fn options_reach_qemu() {
    let place = Place::new("options");
    let output = place.launch(&["--smp", "8", "--deterministic", "--device", "iommu-testdev", &place.image()]);
    assert!(is_argument(&output, "8"), "{}", stdout(&output));
    assert!(is_argument(&output, "shift=4,sleep=off"), "{}", stdout(&output));
    assert!(is_argument(&output, "virt,gic-version=3,iommu=smmuv3"), "{}", stdout(&output));
    assert!(is_argument(&output, "edu,dma_mask=0xffffffffffffffff"), "{}", stdout(&output));
    assert!(is_argument(&output, "iommu-testdev"), "{}", stdout(&output));
}

#[test]
fn there_are_four_edu_devices_where_there_is_no_model() {
    let place = Place::new("edu");
    for (smmu, count) in [("both", 1), ("qemu", 4)] {
        let output = place.launch(&["--smmu", smmu, &place.image()]);
        let devices = stdout(&output).lines().filter(|line| line.starts_with("edu,")).count();
        assert_eq!(devices, count, "{smmu}: {}", stdout(&output));
    }
}

/// The image of the disk that QEMU got.
fn disk(output: &Output) -> Option<&str> {
    stdout(output).lines().find_map(|line| line.strip_prefix("if=none,id=disk,format=raw,file="))
}

#[test]
fn each_run_has_a_disk_of_its_own_behind_qemus_smmu_and_leaves_none_behind() {
    let place = Place::new("disk");
    let outputs = [(); 2].map(|()| place.launch(&[&place.image()]));
    let disks: Vec<_> = outputs.iter().map(|output| disk(output).unwrap()).collect();
    assert_ne!(disks[0], disks[1]);
    for (output, disk) in outputs.iter().zip(disks) {
        assert!(is_argument(output, "virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on"));
        assert!(is_argument(output, "virtio-rng-pci,disable-legacy=on,iommu_platform=on"));
        assert!(is_argument(output, "nvme,drive=nvme,serial=smmu-iopf"));
        assert!(is_argument(output, "a disk of 16777216 bytes"), "{}", stdout(output));
        assert!(!Path::new(disk).exists(), "{disk}");
    }
}

#[test]
fn there_is_no_disk_where_nothing_translates_for_it_or_its_time_would_count() {
    let place = Place::new("no disk");
    for options in [&["--smmu", "model"][..], &["--no-its", "--smmu", "both"], &["--deterministic"]] {
        let output = launch_with_model(&place, &[options, &[&place.image()]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(disk(&output), None, "{options:?}");
        assert!(!stdout(&output).contains("virtio") && !stdout(&output).contains("nvme,drive"), "{options:?}");
    }
}

#[test]
fn a_machine_without_an_its_has_the_modelled_smmu_only() {
    let place = Place::new("its");
    let output = launch_with_model(&place, &["--smmu", "both", "--no-its", &place.image()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(is_argument(&output, "virt,gic-version=3,its=off,virtualization=on"), "{}", stdout(&output));
    assert!(!stdout(&output).contains("edu"), "{}", stdout(&output));
}

#[test]
fn missing_image_is_no_image() {
    let place = Place::new("missing");
    let output = place.launch(&["/nowhere/image"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'/nowhere/image'"), "{}", stderr(&output));
}

#[test]
fn too_old_qemu_is_refused() {
    let place = Place::new("old");
    let output = place.command(&["setup"]).env("VERSION", "7.1.99").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no QEMU for aarch64 of version 7.2 or newer"), "{}", stderr(&output));
}
