//! Real mounts, processes, networks and tools.
//!
//! One program: each file by itself would be linked with everything again, which takes longer than its tests.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

mod access_table;
mod agreed;
mod alerting;
mod at_rest;
mod attacks;
mod backwards;
mod bringing_back;
mod cheating;
mod clock;
mod conflicts;
mod crash;
mod damage;
mod devices;
mod filesystem;
mod first_minutes;
mod flood;
mod fsx;
mod full_disk;
mod idle;
mod joining;
mod keeper;
mod log;
mod memory;
mod messages;
mod metrics;
mod old_volume;
mod packaging;
mod past;
mod permissions;
mod pjdfstest;
mod power_loss;
mod refusals;
mod removal;
mod replication;
mod resources;
mod retention;
mod semantics;
mod sends;
mod tools;
mod trash;
mod twin;
mod ui;
mod verify;
mod versions;
