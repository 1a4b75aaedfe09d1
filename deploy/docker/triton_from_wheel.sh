#!/bin/sh
# Give the Triton of the wheel nvidia-pytriton the shape that it has in NVIDIA's image: a program `tritonserver` on PATH,
# its Python backend complete, and no stubs for other versions of Python. triton_from_wheel.sh DIR, with the wheel
# installed in DIR/python.
set -eu
to=$1
python=$to/python/bin/python3
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
triton=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pytriton/tritonserver
stub=$triton/python_backend_stubs/$version/triton_python_backend_stub
find "$triton/python_backend_stubs" -mindepth 1 -maxdepth 1 ! -name "$version" -exec rm -rf {} +
ln -sf "$stub" "$triton/backends/python/triton_python_backend_stub"
chmod 755 "$stub" "$triton/bin/tritonserver"
cat >"$to/bin/tritonserver" <<WRAPPER
#!/bin/sh
exec $triton/bin/tritonserver --backend-directory=$triton/backends --cache-directory=$triton/caches --allow-gpu-metrics=false "\$@"
WRAPPER
chmod 755 "$to/bin/tritonserver"
