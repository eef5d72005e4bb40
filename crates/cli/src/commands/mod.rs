//! One command a file, and the table of blocks that several draw.

pub mod bench;
pub mod blocks;
pub mod compile;
pub mod completions;
pub mod data;
pub mod demo;
pub mod equalise;
pub mod eval;
pub mod export;
pub mod fuse;
pub mod import;
pub mod infer;
pub mod init;
pub mod inspect;
pub mod prepare;
pub mod prune;
pub mod report;
pub mod serve;
pub mod train;
