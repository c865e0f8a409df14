//! With the feature `cuda`, links the CUDA runtime statically, so that the program needs no library of NVIDIA's to start. All of it comes in
//! before the linker reaches candle's request for the shared one, which then has nothing left to give and is left out.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        // Found in the toolkit's folders, which cudarc names.
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=cudart_static");
    }
}
