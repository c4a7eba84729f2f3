#!/usr/bin/env bash
# Sets up what `cargo build --features cuda` needs, without root: the CUDA toolkit from Python wheels, in a folder of your
# choice, and a stand-in for the driver's library so that the program links where no driver is installed.
#
#   scripts/cuda_toolkit.sh FOLDER            prints `export` lines; progress goes to stderr
#   eval "$(scripts/cuda_toolkit.sh FOLDER)"  sets this shell up
#   scripts/cuda_toolkit.sh FOLDER --smoke    the same, and the program also starts without a driver, finding no GPU
#
# Running it again is quick: what is there is kept. Wheels come from whichever package index pip is configured for. Where
# a toolkit is installed already (`nvcc --version` says 12.0 or later), none of this is needed.
#
# CUDA_COMPUTE_CAP says which GPUs the kernels are compiled for: that of this machine's first GPU, or 80 (A100), whose
# kernels the driver translates for every later GPU.
set -euo pipefail

folder=${1:?usage: scripts/cuda_toolkit.sh FOLDER [--smoke]}
smoke=${2:-}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
say() { echo "cuda_toolkit: $*" >&2; }

wheels=(
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*'  # the compiler
    'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'                    # headers
    'nvidia-cuda-nvrtc==13.0.*' 'nvidia-curand==10.4.*' 'nvidia-cublas==13.0.*' # libraries that candle uses
    'nvidia-nccl-cu13'                                                          # sums over several GPUs (feature nccl)
)
if [ ! -e "$folder/.complete" ]; then
    say "about 1.5 GB of wheels go into $folder"
    python=$(command -v python3 || command -v python) || { say "python3 with pip is needed"; exit 1; }
    "$python" -m pip install --quiet --no-deps --upgrade --target "$folder" "${wheels[@]}" >&2
    touch "$folder/.complete"
fi
root="$folder/nvidia/cu13"
[ -x "$root/bin/nvcc" ] || { say "no nvcc in $root/bin: remove $folder and try again"; exit 1; }

# The linker looks for names without version.
link() { # folder with the library, name
    local found
    found=$(cd "$1" && ls "lib$2".so.* 2>/dev/null | grep -v alt | sort | head -1)
    [ -n "$found" ] || { say "lib$2 is missing in $1"; exit 1; }
    ln -sfn "${3:-}$found" "$root/lib/lib$2.so"
}
for library in cudart cublas cublasLt curand nvrtc; do link "$root/lib" "$library"; done
nccl="$folder/nvidia/nccl/lib"
if [ -d "$nccl" ]; then link "$nccl" nccl "$nccl/"; fi
ln -sfn lib "$root/lib64"

# The driver's library, where no driver is: every function of its header, each answering CUDA_ERROR_NO_DEVICE.
stubs="$folder/stubs"
if [ ! -e "$stubs/libcuda.so" ]; then
    mkdir -p "$stubs"
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$root/include/cuda.h" | sort -u |
        sed 's/.*/int &(void) { return 100; }/' > "$stubs/libcuda.c"
    cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$stubs/libcuda.c"
    mkdir -p "$stubs/start"
    ln -sfn ../libcuda.so "$stubs/start/libcuda.so.1"
fi

# candle-kernels spends nine tenths of its build on kernels for quantised models, which nothing here calls: this compiler
# makes functions of them that end the program, and hands everything else on. Without NVCC in the environment they are built.
lean="$folder/lean"
mkdir -p "$lean/bin"
ln -sfn "$root/include" "$lean/include"
ln -sfn "$root/lib" "$lean/lib64"
cat > "$lean/bin/nvcc" <<EOF
#!/usr/bin/env bash
source=\${!#}
case " \$* " in *" -c "*) compiles=1 ;; *) compiles= ;; esac
case "\$compiles\$(basename "\$source")" in
    1moe_*.cu | 1mmq_*.cu | 1mmvq_*.cu) ;;
    *) exec "$root/bin/nvcc" "\$@" ;;
esac
while [ "\$1" != -o ]; do shift; done
{
    echo 'void abort(void);'
    sed -nE 's/^ *pub fn ([a-z_A-Z0-9]+)\(.*/__attribute__((weak)) void \1(void) { abort(); }/p' src/ffi.rs
} | cc -w -c -fPIC -x c -o "\$2" -
EOF
chmod +x "$lean/bin/nvcc"

driver=$( (ldconfig -p 2>/dev/null || /sbin/ldconfig -p) | awk '/libcuda\.so\.1 /{print $NF; exit}' || true)
capability=${CUDA_COMPUTE_CAP:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d . || true)}
run_path="$root/lib:$nccl"
if [ -z "$driver" ]; then
    say "no NVIDIA driver here: the program links against a stand-in, and starts once a driver is installed"
    [ "$smoke" = --smoke ] && run_path="$run_path:$stubs/start"
fi
for variable in CUDA_HOME CUDA_PATH CUDA_ROOT CUDA_TOOLKIT_ROOT_DIR; do echo "export $variable=\"$root\""; done
cat <<EOF
export NVCC="$lean/bin/nvcc"
export CUDA_COMPUTE_CAP="${capability:-80}"
export PATH="$root/bin:\$PATH"
export LIBRARY_PATH="$stubs:$nccl\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
export LD_LIBRARY_PATH="$run_path\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
EOF
