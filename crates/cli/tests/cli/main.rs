//! Tests of mmapctl as a person and a script meet it: its output, its exit codes, what it leaves behind.

mod bench;
mod conflicts;
mod copy;
mod exit_codes;
mod look;
