"""TLS in front of a server: prints where it listens, reads the server's port from its standard input, ends with it.

Usage: tls_proxy.py FOLDER. The certificate of the authority that clients have to trust is written to FOLDER/ca.pem.
"""

import asyncio
import pathlib
import ssl
import sys

import trustme


async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


async def main():
    authority = trustme.CA()
    authority.cert_pem.write_to_path(pathlib.Path(sys.argv[1]) / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    upstream = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        try:
            there = await asyncio.open_connection("127.0.0.1", await asyncio.shield(upstream))
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(listener.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    upstream.set_result(int(await lines.readline()))
    await lines.read()


asyncio.run(main())
