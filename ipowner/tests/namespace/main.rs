//! The driver against a real kernel: addresses, filter, ARP and neighbours in network namespaces
//! that each test makes for itself. Needs root, iproute2 and nftables; says so where they are missing.

mod lab;
mod take_over;
mod watch;
