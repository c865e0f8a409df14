//! The functions of CUDA's libraries that candle calls, each defined as a jump to where the library has it.
//!
//! Until a library is open, and where it lacks a function, the jump goes to one that answers with the library's own error code. The lists
//! hold what cudarc can be brought to call; the linker says so when candle comes to need another. Names are C's, with the suffixes that
//! NVIDIA's headers put on.

#![expect(unsafe_code, reason = "opens shared libraries, and defines functions of the C interface in their place")]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::GpuError;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the feature `cuda` is written for Linux on x86-64");

/// A shared library and the jumps into it.
struct Library {
    /// The name of its interface, by which the system finds it.
    file: &'static str,
    /// What brings it.
    package: &'static str,
    functions: &'static [(&'static str, &'static AtomicPtr<c_void>)],
    opened: OnceLock<bool>,
}

impl Library {
    /// Points the jumps into the library; once.
    fn open(&self) -> Result<(), GpuError> {
        if *self.opened.get_or_init(|| self.connect()) {
            return Ok(());
        }
        Err(GpuError::NoLibrary { library: self.file, package: self.package })
    }

    fn connect(&self) -> bool {
        // SAFETY: these are NVIDIA's libraries; what they run when they are loaded is what any program that uses them runs.
        let Ok(library) = (unsafe { libloading::Library::new(self.file) }) else { return false };
        // Never closed: jumps into it may be taken until the process ends.
        let library = Box::leak(Box::new(library));
        for (name, target) in self.functions {
            // SAFETY: a pointer is read and handed on; whoever calls the function knows its signature from NVIDIA's headers.
            if let Ok(function) = unsafe { library.get::<*mut c_void>(*name) } {
                target.store(*function, Ordering::Release);
            }
        }
        true
    }
}

/// Defines the functions of one library. `$missing` is its error code for what cannot be had.
macro_rules! library {
    ($library:ident, $package:literal, $file:literal, $missing:literal, [$($function:ident)*]) => {
        #[expect(non_snake_case, reason = "named as the functions are in NVIDIA's headers")]
        mod $library {
            use super::{AtomicPtr, c_int, c_void};

            extern "C" fn missing() -> c_int {
                $missing
            }

            $(pub(super) mod $function {
                use super::{AtomicPtr, c_void};

                pub(in super::super) static TARGET: AtomicPtr<c_void> = AtomicPtr::new(super::missing as *mut c_void);

                /// SAFETY: jumps with all registers and the stack as they are, so that the target sees its caller's call.
                #[unsafe(no_mangle)]
                #[unsafe(naked)]
                unsafe extern "C" fn $function() {
                    core::arch::naked_asm!("jmp qword ptr [rip + {target}]", target = sym TARGET)
                }
            })*
        }

        #[expect(non_upper_case_globals, reason = "named as the library")]
        static $library: Library = Library {
            file: $file,
            package: $package,
            functions: &[$((stringify!($function), &$library::$function::TARGET)),*],
            opened: OnceLock::new(),
        };
    };
}

// 100: CUDA_ERROR_NO_DEVICE.
library!(cuda, "NVIDIA's driver", "libcuda.so.1", 100, [
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit cuCtxGetStreamPriorityRange
    cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet
    cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2
    cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2 cuEventCreate cuEventDestroy_v2
    cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord cuEventSynchronize cuExternalMemoryGetMappedBuffer
    cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphDestroy cuGraphExecDestroy
    cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc
    cuLaunchKernel cuMemAdvise_v2 cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost
    cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute cuMemPoolSetAttribute
    cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2
    cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2 cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData
    cuModuleUnload cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing
    cuStreamSynchronize cuStreamWaitEvent
]);

// 1: CUBLAS_STATUS_NOT_INITIALIZED.
library!(cublas, "cuBLAS of CUDA 13 (libcublas-13-0)", "libcublas.so.13", 1, [
    cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2 cublasGemmEx
    cublasGemmGroupedBatchedEx cublasGemmStridedBatchedEx cublasGetPointerMode_v2 cublasSasum_v2 cublasSetPointerMode_v2
    cublasSetStream_v2 cublasSgemmStridedBatched cublasSgemm_v2 cublasSgemv_v2
]);

// 101: CURAND_STATUS_NOT_INITIALIZED.
library!(curand, "cuRAND of CUDA 13 (libcurand-13-0)", "libcurand.so.10", 101, [
    curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal curandGenerateLogNormalDouble
    curandGenerateLongLong curandGenerateNormal curandGenerateNormalDouble curandGeneratePoisson curandGenerateUniform
    curandGenerateUniformDouble curandSetGeneratorOffset curandSetPseudoRandomGeneratorSeed curandSetStream
]);

// 1001: CUDNN_STATUS_NOT_INITIALIZED.
#[cfg(feature = "cudnn")]
library!(cudnn, "cuDNN 9 for CUDA 13 (libcudnn9-cuda-13)", "libcudnn.so.9", 1001, [
    cudnnActivationForward cudnnAdvInferVersionCheck cudnnAdvTrainVersionCheck cudnnAdvVersionCheck cudnnCnnInferVersionCheck
    cudnnCnnTrainVersionCheck cudnnCnnVersionCheck cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter
    cudnnConvolutionBiasActivationForward cudnnConvolutionForward cudnnCreate cudnnCreateActivationDescriptor
    cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreatePoolingDescriptor cudnnCreateReduceTensorDescriptor
    cudnnCreateTensorDescriptor cudnnDestroy cudnnDestroyConvolutionDescriptor cudnnDestroyFilterDescriptor
    cudnnDestroyReduceTensorDescriptor cudnnDestroyTensorDescriptor cudnnGetConvolutionBackwardDataAlgorithm_v7
    cudnnGetConvolutionBackwardDataWorkspaceSize cudnnGetConvolutionBackwardFilterAlgorithm_v7
    cudnnGetConvolutionBackwardFilterWorkspaceSize cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize
    cudnnGetCudartVersion cudnnGetReductionIndicesSize cudnnGetReductionWorkspaceSize cudnnGetVersion cudnnOpsInferVersionCheck
    cudnnOpsTrainVersionCheck cudnnOpsVersionCheck cudnnPoolingForward cudnnReduceTensor cudnnSetActivationDescriptor
    cudnnSetConvolution2dDescriptor cudnnSetConvolutionGroupCount cudnnSetConvolutionMathType cudnnSetConvolutionNdDescriptor
    cudnnSetFilter4dDescriptor cudnnSetFilterNdDescriptor cudnnSetPoolingNdDescriptor cudnnSetReduceTensorDescriptor cudnnSetStream
    cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx cudnnSetTensorNdDescriptor cudnnSoftmaxForward
]);

/// The driver, which every GPU needs.
pub(super) fn open_driver() -> Result<(), GpuError> {
    cuda.open()
}

/// What computing takes besides the driver.
pub(super) fn open_libraries() -> Result<(), GpuError> {
    cublas.open()?;
    curand.open()?;
    #[cfg(feature = "cudnn")]
    cudnn.open()?;
    Ok(())
}
