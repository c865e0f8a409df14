//! The cluster's program used as a tool: images, kubectl, helm.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context as _;
use tokio::process::Command;

use crate::Cluster;

/// An image to be made of files of this machine.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its full name with a tag, as in a pod's spec. No registry is asked for it if the pod's `imagePullPolicy` is not `Always`.
    pub name: String,
    /// The program that it starts; the shared libraries that it needs go with it.
    pub program: PathBuf,
    /// Further files and folders, each with its absolute place in the image.
    pub files: Vec<(PathBuf, String)>,
}

/// What a program said when it had ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether it ended well.
    pub succeeded: bool,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub error: String,
}

impl Said {
    /// The standard output of a program that ended well.
    ///
    /// # Errors
    /// With all that it said, if it did not.
    pub fn ok(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.succeeded, "{}{}", self.output, self.error);
        Ok(self.output)
    }
}

impl Cluster {
    /// Makes an image and gives it to each node.
    pub async fn import(&self, image: &Image) -> anyhow::Result<()> {
        let archive = self.archive(image).await?;
        let imported = match (&self.image_import, self.name()) {
            (_, Some(name)) => self.run(["image", "import", "--name", name, &archive]).await?,
            (Some(command), None) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("{} \"$0\"", command.to_string_lossy())).arg(&archive);
                said(shell).await?
            }
            (None, None) => anyhow::bail!("no way to give an image to this cluster"),
        };
        std::fs::remove_file(&archive)?;
        imported.ok().with_context(|| format!("import {}", image.name)).map(drop)
    }

    /// Makes an image and pushes it to the cluster's own registry under the path `name:tag`; pods find it at
    /// `{registry}/{path}`.
    pub async fn push(&self, image: &Image, path: &str) -> anyhow::Result<()> {
        let name = self.name().context("another's cluster has a registry of its own")?;
        let archive = self.archive(image).await?;
        let pushed = self.run(["image", "push", "--name", name, &archive, path]).await?;
        std::fs::remove_file(&archive)?;
        pushed.ok().with_context(|| format!("push {path}")).map(drop)
    }

    async fn archive(&self, image: &Image) -> anyhow::Result<String> {
        let file = format!("emulsion-image-{}-{}.tar", std::process::id(), image.name.replace(['/', ':'], "-"));
        let archive = std::env::temp_dir().join(file).to_str().context("the temporary folder's path is not UTF-8")?.to_owned();
        let mut arguments =
            vec!["image".to_owned(), "build".into(), "--tag".into(), image.name.clone(), "--output".into(), archive.clone()];
        for (source, target) in &image.files {
            arguments.extend(["--file".to_owned(), format!("{}:{target}", source.display())]);
        }
        arguments.push(image.program.to_str().context("the program's path is not UTF-8")?.to_owned());
        self.run(arguments).await?.ok().with_context(|| format!("make the image {}", image.name))?;
        Ok(archive)
    }

    /// Runs helm on this cluster, with a home of its own.
    pub async fn helm<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Said> {
        let mut command = self.tool("helm");
        command.args(arguments);
        said(command).await
    }

    /// Runs kubectl on this cluster.
    pub async fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Said> {
        let mut command = self.tool("kubectl");
        command.args(arguments);
        said(command).await
    }

    /// Runs a shell script in a folder; in it `helm` and `kubectl` are those of this cluster.
    pub async fn shell(&self, folder: &Path, script: &str) -> anyhow::Result<Said> {
        let programs = std::env::temp_dir().join(format!("emulsion-shell-{}", std::process::id()));
        std::fs::create_dir_all(&programs)?;
        for name in ["helm", "kubectl"] {
            let (program, kubeconfig) = (self.program.display(), self.kubeconfig.display());
            let wrapper = programs.join(name);
            std::fs::write(&wrapper, format!("#!/bin/sh\nexec '{program}' {name} --kubeconfig '{kubeconfig}' \"$@\"\n"))?;
            std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs.clone()].into_iter().chain(std::env::split_paths(&path)))?;
        let mut command = Command::new("sh");
        self.give_home(&mut command);
        command.args(["-eu", "-c", script]).current_dir(folder).env("PATH", path);
        let said = said(command).await;
        std::fs::remove_dir_all(&programs)?;
        said
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([OsStr::new(name), OsStr::new("--kubeconfig"), self.kubeconfig.as_os_str()]);
        self.give_home(&mut command);
        command
    }

    /// Not the user's: what a client keeps goes with our own cluster, or lies among temporary files.
    fn give_home(&self, command: &mut Command) {
        let home = match self.name() {
            Some(_) => self.kubeconfig.with_file_name("home"),
            None => std::env::temp_dir().join("emulsion-cluster-clients"),
        };
        command.env("HOME", &home).env_remove("KUBECONFIG");
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR"] {
            command.env(name, home.join(name));
        }
    }

    async fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Said> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        said(command).await
    }
}

async fn said(mut command: Command) -> anyhow::Result<Said> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| format!("{command:?} does not start"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { succeeded: output.status.success(), output: text(output.stdout), error: text(output.stderr) })
}
