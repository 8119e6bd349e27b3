"""A Python program that knows a server in a container by its address only, before and after the server was killed.

    container.py write ADDRESS      maps a file, writes its first page and syncs it, writes its second page and does
                                    not; prints the mapping's number
    container.py check ADDRESS ID   reads both pages back through the same mapping, as the same process
    container.py finish ADDRESS ID  syncs the rest and unmaps
"""

import sys

import grpc

import mmap_pb2
import mmap_pb2_grpc

PAGE = 4096
PATH = "/kept/file.bin"
SYNCED = b"synced. " * (PAGE // 8)
ACKNOWLEDGED = b"written " * (PAGE // 8)
WHO = (("mmap-pid", "77"), ("mmap-capabilities", "FileRead,FileWrite"))
# Every call waits for the server, so that a test need not guess when it has started.
CALL = {"metadata": WHO, "wait_for_ready": True, "timeout": 60}


def write(mmap):
    request = mmap_pb2.MmapRequest(path=PATH, length=2 * PAGE, prot=3, shared=True, create=True)
    number = mmap.Mmap(request, **CALL).mmap_id
    mmap.MmapWrite(mmap_pb2.MmapWriteRequest(mmap_id=number, offset=0, data=SYNCED), **CALL)
    synced = mmap.Msync(mmap_pb2.MsyncRequest(mmap_id=number), **CALL).synced_bytes
    assert synced == PAGE, synced
    mmap.MmapWrite(mmap_pb2.MmapWriteRequest(mmap_id=number, offset=PAGE, data=ACKNOWLEDGED), **CALL)
    print(number)


def check(mmap, number):
    read = mmap.MmapRead(mmap_pb2.MmapReadRequest(mmap_id=number, offset=0, length=2 * PAGE), **CALL).data
    assert read[:PAGE] == SYNCED, read[:64]
    assert read[PAGE:] == ACKNOWLEDGED, read[PAGE : PAGE + 64]


def finish(mmap, number):
    synced = mmap.Munmap(mmap_pb2.MunmapRequest(mmap_id=number), **CALL).synced_bytes
    assert synced == PAGE, synced


def main(step, address, *number):
    with grpc.insecure_channel(address) as channel:
        {"write": write, "check": check, "finish": finish}[step](
            mmap_pb2_grpc.MmapServiceStub(channel), *map(int, number)
        )


main(*sys.argv[1:])
