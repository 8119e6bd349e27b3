//! The contract's methods, by number.

/// The path of each method. Their order is the corpus's: new ones go to the end.
pub(crate) const METHODS: [&str; 22] = [
    "/mmap.v1.MmapService/Mmap",
    "/mmap.v1.MmapService/MmapRead",
    "/mmap.v1.MmapService/MmapWrite",
    "/mmap.v1.MmapService/Msync",
    "/mmap.v1.MmapService/Munmap",
    "/mmap.v1.MmapService/MmapStats",
    "/mmap.v1.MmapService/MmapReadStream",
    "/mmap.v1.MmapService/MmapWriteStream",
    "/mmap.v1.MmapService/MmapPipeline",
    "/mmap.v1.MmapService/ListMappings",
    "/mmap.v1.ProcessService/Attach",
    "/mmap.v1.ProcessService/Exit",
    "/mmap.v1.ProcessService/ListProcesses",
    "/mmap.v1.FileService/StatFile",
    "/mmap.v1.FileService/ListFiles",
    "/mmap.v1.FileService/TruncateFile",
    "/mmap.v1.FileService/RemoveFile",
    "/mmap.v1.FileService/ListWaiting",
    "/mmap.v1.FileService/ListConflicts",
    "/mmap.v1.FileService/ReadConflict",
    "/mmap.v1.FileService/ApplyConflict",
    "/mmap.v1.FileService/DropConflict",
];
