//! Ends this process with the one that started it.

use std::io::Read;

/// Standard input is a pipe whose other end the parent holds. The system closes it however the parent ends, so nothing outlives its router.
pub(super) fn exit_with_it() -> std::io::Result<()> {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 256];
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => break,
                Ok(_) | Err(_) => {}
            }
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch).map(drop)
}
