//! mmapd in containers: the image, and docker-compose.yml's profiles that need nothing but it and a stand-in for the
//! S3 store. What is run is what a person runs, `deploy/up`, with a debug build of the same static binary.
//!
//! One test, in steps: a daemon and an image cost seconds, and the steps would wait for each other anyway.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mmap_tests::docker::{Docker, succeed};
use mmap_tests::readme;
use mmap_tests::require::available;
use mmap_tests::venv::Venv;
use mmap_tests::{binaries, paths};
use serde_json::Value;

const PAGE: usize = 4096;
/// The user that the image runs as.
const USER: &str = "65532:65532";
const IMAGE: &str = "mmapd:local";
/// As tests/python/container.py names it.
const FILE: &str = "kept/file.bin";

/// What a test of containers needs.
struct World {
    docker: Docker,
    venv: Venv,
    stubs: tempfile::TempDir,
}

impl World {
    fn script(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(paths::workspace().join("deploy").join(name));
        self.docker.aim(&mut command).args(args).env("CARGO_TARGET_DIR", paths::target_dir());
        command
    }

    /// Where the container's port is published, in the daemon's network.
    fn address(&self, container: &str, port: &str) -> String {
        let address = self.docker.run(["port", container, port]).trim().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "published beyond loopback: {address}");
        address
    }

    /// The foreign client's step against the server in `container`.
    fn client(&self, container: &str, step: &str, args: &[&str]) -> String {
        let mut command = self.docker.inside(&self.venv.program("python"));
        command.env("PYTHONPATH", self.stubs.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(paths::workspace().join("tests/python/container.py")).arg(step);
        command.arg(self.address(container, "50051/tcp")).args(args);
        succeed(&mut command).trim().to_owned()
    }

    /// A client maps, writes and syncs; the container is killed and started; the client goes on. `stored` reads the
    /// file from the store.
    fn survives_a_kill(&self, container: &str, stored: impl Fn() -> Vec<u8>) {
        let mapping = self.client(container, "write", &[]);
        self.docker.run(["kill", container]);
        let at_the_kill = stored();
        assert_eq!(at_the_kill[..PAGE], b"synced. ".repeat(PAGE / 8)[..], "what was synced is in the store");
        assert_eq!(at_the_kill[PAGE..], [0; PAGE], "nobody synced the second page yet");
        self.docker.run(["start", container]);
        self.client(container, "check", &[&mapping]);
        self.client(container, "finish", &[&mapping]);
        assert_eq!(stored()[PAGE..], b"written ".repeat(PAGE / 8)[..], "the second page is synced, too");
        self.docker.wait_healthy(container);
    }

    fn inspect(&self, what: &str) -> Value {
        let described: Value = serde_json::from_str(&self.docker.run(["inspect", what])).unwrap();
        described[0].clone()
    }

    fn container(&self, service: &str) -> String {
        let filter = format!("label=com.docker.compose.service={service}");
        let found = self.docker.run(["ps", "--all", "--quiet", "--filter", &filter]);
        assert_eq!(found.lines().count(), 1, "{service}: {found:?}");
        found.trim().to_owned()
    }
}

#[test]
fn a_killed_container_comes_back_with_what_it_acknowledged_alone_and_with_an_s3_store() {
    let (Some(venv), Some(docker)) = (available(Venv::get()), available(Docker::start())) else { return };
    let stubs = venv.stubs();
    let world = World { docker, venv, stubs };
    alone(&world);
    the_container_has_no_more_rights_than_it_needs(&world);
    what_was_backed_up_can_be_put_back(&world);
    it_ends_cleanly_when_it_is_stopped(&world);
    beyond_the_container_it_listens_only_when_told_that_this_is_wanted(&world);
    with_a_store(&world);
    both_dockerfiles_and_both_builders_make_the_same_image(&world);
}

fn alone(world: &World) {
    let told = succeed(&mut world.script("up", &["alone", "--profile", "dev"]));
    // The static build took the place of the one that other tests run.
    binaries::binary("mmapd");
    let container = world.container("mmapd-alone");
    assert!(told.contains(&format!("mmapd serves on {}", world.address(&container, "50051/tcp"))), "{told}");
    let copy = world.docker.folder().join("copy");
    world.survives_a_kill(&container, || {
        world.docker.run(["cp", &format!("{container}:/var/lib/mmapd/files/{FILE}"), copy.to_str().unwrap()]);
        std::fs::read(&copy).unwrap()
    });
}

fn the_container_has_no_more_rights_than_it_needs(world: &World) {
    let container = world.inspect(&world.container("mmapd-alone"));
    assert_eq!(container["Config"]["User"], USER);
    let host = &container["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert_eq!(host["Privileged"], false);
    // As the kernel has it: no capability, no way to one.
    let status = std::fs::read_to_string(format!("/proc/{}/status", container["State"]["Pid"])).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["65532"; 4]);
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    let labels = &world.inspect(IMAGE)["Config"]["Labels"];
    for label in ["title", "description", "licenses", "version", "revision"] {
        let value = labels[format!("org.opencontainers.image.{label}")].as_str().unwrap_or_default();
        assert!(!value.is_empty() && value != "unknown", "{label}: {labels}");
    }
}

fn it_ends_cleanly_when_it_is_stopped(world: &World) {
    let container = world.container("mmapd-alone");
    world.docker.run(["stop", &container]);
    assert_eq!(world.inspect(&container)["State"]["ExitCode"], 0);
}

fn beyond_the_container_it_listens_only_when_told_that_this_is_wanted(world: &World) {
    let mut command = Command::new(world.docker.program());
    let output = world.docker.aim(&mut command).args(["run", "--rm", "--network", "none", IMAGE]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("--insecure"), "{told}");
    let checked = ["run", "--rm", "--network", "none", "--env", "MMAPD_INSECURE=true", IMAGE, "config", "check"];
    let checked = world.docker.run(checked);
    assert!(checked.contains("/var/lib/mmapd") && checked.contains("0.0.0.0:50051"), "{checked}");
}

/// The folder of the interpreter that the environment's Python is a link to.
fn python_prefix(venv: &Venv) -> PathBuf {
    let printed = succeed(venv.command("python").args(["-c", "import sys; print(sys.base_prefix)"]));
    PathBuf::from(printed.trim())
}

fn with_a_store(world: &World) {
    let context = world.docker.folder().join("stand-in");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nLABEL stand-in=\"nothing of its own\"\n").unwrap();
    world.docker.run(["build", "--quiet", "--tag", "stand-in", context.to_str().unwrap()]);

    let compose = world.docker.compose_program().display();
    let mut up = world.script("up", &["s3", "--profile", "dev"]);
    up.env("COMPOSE", format!("{compose} --file docker-compose.yml --file tests/compose/moto.yml"));
    up.env("S3_IMAGE", "stand-in");
    up.env("STAND_IN_VENV", world.venv.folder()).env("STAND_IN_PYTHON", python_prefix(&world.venv));
    up.env("STAND_IN_LIB64", Path::new("/lib64").canonicalize().unwrap());
    succeed(&mut up);
    binaries::binary("mmapd");

    let store = format!("http://{}", world.address(&world.container("s3"), "9000/tcp"));
    let script = format!(
        "import boto3, sys\n\
         s3 = boto3.client('s3', endpoint_url='{store}', region_name='us-east-1', aws_access_key_id='any', \
         aws_secret_access_key='any')\n\
         sys.stdout.buffer.write(s3.get_object(Bucket='mmapd', Key='{FILE}')['Body'].read())"
    );
    world.survives_a_kill(&world.container("mmapd"), || {
        let output = world.docker.inside(&world.venv.program("python")).args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    });
}

/// What the image says of itself, as both builders have to write it.
fn described(world: &World, image: &str) -> Value {
    let config = &world.inspect(image)["Config"];
    serde_json::json!({
        "user": config["User"], "entrypoint": config["Entrypoint"], "env": config["Env"], "labels": config["Labels"],
        "volumes": config["Volumes"], "ports": config["ExposedPorts"], "health": config["Healthcheck"],
    })
}

/// The whole build in Docker needs an image with a toolchain, which cannot be pulled here: one is made that has the
/// programs of deploy/rootfs and a `cargo` that hands out the binary that was built before.
const STAND_IN_BUILDER: &str = r##"
binary=$1 root=$2
mkdir -p "$root/made"
for program in bash sh env cut rm mkdir cp chmod install strip readelf grep; do
    file=$(command -v "$program")
    cp -L --parents "$file" "$root"
    ldd "$file" | grep -o '/[^ ]*' | xargs cp -L --parents -t "$root"
done
mkdir -p "$root/bin"
cp -L /bin/sh "$root/bin/sh"
cp -L --parents /etc/ssl/certs/ca-certificates.crt "$root"
cp "$binary" "$root/made/mmapd"
printf '#!/bin/sh\nmkdir -p target/release && cp /made/mmapd target/release/mmapd\n' >"$root/usr/bin/cargo"
chmod 755 "$root/usr/bin/cargo"
tar -C "$root" -c . | "$DOCKER" import - stand-in-builder
"##;

fn both_dockerfiles_and_both_builders_make_the_same_image(world: &World) {
    let of_up = described(world, IMAGE);
    let binary = world.docker.folder().join("mmapd");
    std::fs::copy(paths::target_dir().join("image/rootfs/mmapd"), &binary).unwrap();
    let binary = binary.to_str().unwrap();
    let prebuilt = ["--binary", binary, "--profile", "dev", "--tag", "mmapd:prebuilt"];
    succeed(world.script("build-image", &prebuilt).env("DOCKER_BUILDKIT", "1"));
    assert_eq!(described(world, "mmapd:prebuilt"), of_up);

    let root = world.docker.folder().join("builder");
    let mut import = Command::new("bash");
    import.args(["-euo", "pipefail", "-c", STAND_IN_BUILDER, "bash", binary]).arg(root);
    succeed(world.docker.aim(&mut import));
    let label = |name: &str| {
        let value = of_up["labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
        format!("{}={value}", name.to_uppercase())
    };
    for buildkit in ["0", "1"] {
        let tag = format!("mmapd:whole-{buildkit}");
        let mut build = Command::new(world.docker.program());
        world.docker.aim(&mut build).env("DOCKER_BUILDKIT", buildkit).current_dir(paths::workspace());
        build.args(["build", "--file", "deploy/Dockerfile", "--build-arg", "BUILDER=stand-in-builder", "--tag", &tag]);
        build.args(["--build-arg", &label("version"), "--build-arg", &label("revision"), "."]);
        succeed(&mut build);
        assert_eq!(described(world, &tag), of_up, "{tag}");
        // It runs: nothing that it needs is missing.
        assert!(world.docker.run(["run", "--rm", "--network", "none", &tag, "--version"]).starts_with("mmapd "));
    }
}

/// deploy/README.md's commands, with docker-compose 1.29 for `docker compose`.
fn readme_of_deploy(world: &World, block: &str) {
    let shims = world.docker.folder().join("shims");
    std::fs::create_dir_all(&shims).unwrap();
    let (docker, compose) = (world.docker.program().display(), world.docker.compose_program().display());
    let shim = format!(
        "#!/bin/sh\nif [ \"$1\" = compose ]; then shift; exec {compose} --project-directory {} --file {} \"$@\"; fi\n\
         exec {docker} \"$@\"\n",
        paths::workspace().display(),
        paths::workspace().join("docker-compose.yml").display(),
    );
    std::fs::write(shims.join("docker"), shim).unwrap();
    std::fs::set_permissions(shims.join("docker"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", shims.display(), std::env::var("PATH").unwrap());
    let text = readme::block_of("deploy/README.md", block).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &text]);
    // What it writes goes to the folder of the test.
    succeed(world.docker.aim(&mut shell).env("PATH", path).current_dir(world.docker.folder()));
}

fn what_was_backed_up_can_be_put_back(world: &World) {
    let container = world.container("mmapd-alone");
    let mapping = world.client(&container, "write", &[]);
    readme_of_deploy(world, "backup");
    let mut down = Command::new(world.docker.compose_program());
    world.docker.aim(&mut down).current_dir(paths::workspace());
    succeed(down.args(["--profile", "alone", "down", "--volumes"]));
    readme_of_deploy(world, "restore");
    let container = world.container("mmapd-alone");
    world.client(&container, "check", &[&mapping]);
    world.docker.wait_healthy(&container);
}
