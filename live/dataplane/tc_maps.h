/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the program shares with live/dataplane/tc_program.py: the maps, and the constants that it is loaded with.
 * Sizes are those of the smallest instance; the loader makes the maps and gives the real ones (struct limits).
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

/* Known to the verifier as constants: the loader freezes them. */
struct limits {
	u32 image_bytes;     /* of the image's value: a power of two */
	u32 table_entries;   /* of every pool's value */
	u32 slow_ifindex;    /* the device that leads to tg_slow */
	u32 fragment_mark;   /* asks the kernel to put the fragments of a datagram in order, and to send them to tg_slow */
	u32 answer_mark;     /* of packets on their way to tg_answer */
	u32 answers_per_s;   /* of each CPU: RST and ICMP errors that we send */
	u32 fragment_hold_ms; /* how long fragments of a datagram may follow each other */
};
const volatile struct limits limits = { 1 << 16, 1 << 16, 1, 1, 2, 1, 1 };

struct target {
	u32 ifindex; /* 0: no interface of ours is on its network */
	u32 mtu;
	u32 next_hop[4]; /* IPv4: the first word */
	u32 family;
};

/* An entry of a pool's table. */
struct bucket {
	u32 target;  /* an index of `targets`, or REJECT */
	u32 counter; /* from the flow's counters */
};
#define REJECT 0xffffffff

struct counter {
	u64 packets;
	u64 bytes;
};

/* A datagram in fragments, by what all of its fragments carry. */
struct fragment_key {
	u32 source[4];
	u32 destination[4];
	u32 id;
	u32 protocol; /* IPv6: ANY_PROTOCOL */
};
#define ANY_PROTOCOL 256 /* no IPv4 packet has it */

enum verdict { DROP, FORWARD, REFUSE, IN_ORDER };

struct fragment {
	u64 until_ns;
	u32 verdict; /* IN_ORDER: the kernel has a fragment that came before the first; it gets all the others */
	u32 counter;
	struct target target;
};

enum drop {
	DROP_NO_FLOW,     /* the destination is ours, no flow matches */
	DROP_UNPARSED,    /* neither TCP, UDP, SCTP, echo nor an ICMP error about one of them; or cut short */
	DROP_NO_TARGET,   /* the target is on no network of ours */
	DROP_FRAGMENT,    /* the first fragment was dropped or rejected, or never came */
	DROP_UNANSWERED,  /* to be rejected, but over the rate of answers, or nobody may be answered */
	DROP_INTERNAL,    /* an image or table that does not fit: never seen */
	DROP_REASONS,
};

#define MAP(name, kind, key_type, value_type, entries)                                                              \
	struct {                                                                                                    \
		__uint(type, kind);                                                                                 \
		__uint(max_entries, entries);                                                                       \
		__type(key, key_type);                                                                              \
		__type(value, value_type);                                                                          \
	} name SEC(".maps")

MAP(image_slot, BPF_MAP_TYPE_ARRAY_OF_MAPS, u32, u32, 1);
MAP(pools, BPF_MAP_TYPE_ARRAY_OF_MAPS, u32, u32, 1);
MAP(targets, BPF_MAP_TYPE_ARRAY, u32, struct target, 1);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct counter, 1);
MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, u32, u64, DROP_REASONS);
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment, 1);
MAP(answers, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct counter, 1);
