"""An S3 server on this machine, reached by settings in the environment, as a user would give them."""

import importlib.util
import urllib.request
from contextlib import contextmanager

import pytest

needs_s3 = pytest.mark.skipif(
    not (importlib.util.find_spec("moto") and importlib.util.find_spec("s3fs") and importlib.util.find_spec("flask")),
    reason="needs s3fs and moto[server]",
)


@contextmanager
def serving():
    """Serve `s3://bucket`, to this process and to those that it starts."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # servers of one process share all
    given = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            fsspec.config.set_conf_env(fsspec.config.conf)
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # an earlier server's
            fsspec.filesystem("s3").mkdir("bucket")
            yield server
    finally:
        fsspec.config.conf.pop("s3", None)
        server.stop()
