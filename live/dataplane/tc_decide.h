/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The decision image (live/dataplane/tc_image.py says what is in it) and the flow hash (core/lb/jhash.py).
 */
#pragma once

#include "tc_packet.h"

#define CHILD 0x80000000u
#define GROUP_AT 12 /* the references of a group (tc_image.GROUP_AT) */
#define STRAIGHT 2 /* SWITCH cells before a decision becomes a loop: nearly all need no more */
#define MAX_STEPS (1 << 16)

enum kind { NOTHING, FLOW, SWITCH, SOURCE, FIELD };
enum key { KEY_DESTINATION_PORT, KEY_SOURCE_PORT, KEY_SOURCE_CLASS, KEY_FIELD, KEYS };

static __always_inline const u32 *cell(const void *image, u32 reference)
{
	return image + (((u64)reference << 6) & (limits.image_bytes - 64));
}

/* All bits if the words are equal, else none; without a branch. */
static __always_inline u64 if_equal(u64 a, u64 b)
{
	a ^= b;
	asm volatile("" : "+r"(a));
	return -((a - 1) >> 63);
}

struct descent {
	const void *image;
	u64 high, low; /* what is left of the address */
	u32 entry;
};

/* Four bits further down a trie; 1: the end. */
static long descend(u32 i, struct descent *d)
{
	d->entry = cell(d->image, d->entry & ~CHILD)[d->high >> 60];
	d->high = d->high << 4 | d->low >> 60;
	d->low <<= 4;
	return !(d->entry & CHILD);
}

/* The value of the longest prefix of `address`; `where`: first host bucket, buckets - 1, root of the trie. */
static __noinline u32 find(const void *image, const u32 *address, u32 family, u32 header_word)
{
	const u32 *header = cell(image, 0), *bucket;
	u32 buckets_at = header[header_word & 15], mask = header[(header_word + 1) & 15];
	u32 hash = address[0] * 0x9E3779B1, value = 0;
	struct descent d = { .image = image, .entry = header[(header_word + 2) & 15] };

	if (family == AF_INET6)
		hash ^= address[1] * 0x85EBCA77 ^ address[2] * 0xC2B2AE3D ^ address[3] * 0x27D4EB2F;
	hash ^= hash >> 15;
	hash *= 0x85EBCA77;
	hash ^= hash >> 13;
	bucket = cell(image, buckets_at + (hash & mask));
	if (family == AF_INET) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			value |= bucket[8 + i] & if_equal(bucket[i], address[0]);
		d.high = (u64)bpf_ntohl(address[0]) << 32;
	} else {
#pragma unroll
		for (int i = 0; i < 3; i++)
			value |= bucket[12 + i] & if_equal(bucket[4 * i], address[0]) &
				 if_equal(bucket[4 * i + 1], address[1]) & if_equal(bucket[4 * i + 2], address[2]) &
				 if_equal(bucket[4 * i + 3], address[3]);
		d.high = (u64)bpf_ntohl(address[0]) << 32 | bpf_ntohl(address[1]);
		d.low = (u64)bpf_ntohl(address[2]) << 32 | bpf_ntohl(address[3]);
	}
	if (value || !d.entry)
		return value;
	bpf_loop(32, descend, &d, 0);
	return d.entry;
}

struct walk {
	const void *image;
	struct __sk_buff *skb;
	const struct packet *packet;
	u32 reference;
	u32 key[KEYS];
};

/* Reads a field of the L4 header; of the packet inside an ICMP error only the ports are known. */
static __always_inline bool load_field(struct walk *w, u32 offset, u32 length, u32 mask)
{
	const struct packet *p = w->packet;
	u8 bytes[4] = {};
	u32 value;

	if (length != 1 && length != 2 && length != 4)
		return false;
	if (p->is_error) {
		u64 ports = (u64)bpf_htonl(p->source_port | p->destination_port << 16) << 32;

		if (offset + length > 4)
			return false;
		value = ports << 8 * (offset & 3) >> (64 - 8 * length);
	} else {
		if (p->l4 + offset + length > p->end)
			return false;
		if (length == 1 ? bpf_skb_load_bytes(w->skb, p->l4 + offset, bytes, 1) :
		    length == 2 ? bpf_skb_load_bytes(w->skb, p->l4 + offset, bytes, 2) :
				  bpf_skb_load_bytes(w->skb, p->l4 + offset, bytes, 4))
			return false;
		value = (u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
		value >>= 32 - 8 * length;
	}
	w->key[KEY_FIELD] = value & mask;
	return true;
}

/* a < b, for 32-bit values, without a branch: the verifier follows both sides of each. */
static __always_inline u64 is_less(u64 a, u64 b)
{
	a -= b;
	asm volatile("" : "+r"(a));
	return a >> 63;
}

static __always_inline u32 switch_to(const struct walk *w, const u32 *c)
{
	u64 key = w->key[c[0] >> 8 & (KEYS - 1)], n = 0;

#pragma unroll
	for (int i = 2; i < 8; i++)
		n += is_less(c[i], key + 1);
	return c[8 + (n & 7)];
}

/* One cell further; 1: the end. */
static long step(u32 i, struct walk *w)
{
	const u32 *c = cell(w->image, w->reference);

	switch (c[0] & 0xff) {
	case SWITCH:
		w->reference = switch_to(w, c);
		return 0;
	case SOURCE:
		w->key[KEY_SOURCE_CLASS] = find(w->image, w->packet->source, w->packet->family,
						w->packet->family == AF_INET ? 5 : 11);
		w->reference = c[1];
		return 0;
	case FIELD:
		w->reference = load_field(w, c[3], c[4], c[5]) ? c[1] : c[2];
		return 0;
	default: /* FLOW; or the header, which is no flow */
		return 1;
	}
}

/* The cell of the packet's flow, or NULL. */
static __always_inline const u32 *classify(struct walk *w)
{
	const u32 *c = cell(w->image, w->reference);

	for (int i = 0; i < STRAIGHT && (c[0] & 0xff) == SWITCH; i++) {
		w->reference = switch_to(w, c);
		c = cell(w->image, w->reference);
	}
	if ((c[0] & 0xff) != FLOW) {
		bpf_loop(MAX_STEPS, step, w, 0);
		c = cell(w->image, w->reference);
	}
	return w->reference && (c[0] & 0xff) == FLOW ? c : 0;
}

static __always_inline u32 rotate(u32 word, int shift)
{
	return word << shift | word >> (32 - shift);
}

/* linux/jhash.h: __jhash_mix, __jhash_final */
#define MIX                                                                                                         \
	a -= c, a ^= rotate(c, 4), c += b, b -= a, b ^= rotate(a, 6), a += c, c -= b, c ^= rotate(b, 8), b += a,    \
		a -= c, a ^= rotate(c, 16), c += b, b -= a, b ^= rotate(a, 19), a += c, c -= b, c ^= rotate(b, 4),  \
		b += a
#define FINAL                                                                                                       \
	c ^= b, c -= rotate(b, 14), a ^= c, a -= rotate(c, 11), b ^= a, b -= rotate(a, 25), c ^= b,                 \
		c -= rotate(b, 16), a ^= c, a -= rotate(c, 4), b ^= a, b -= rotate(a, 14), c ^= b, c -= rotate(b, 24)

/* core.lb.classifier.flow_hash */
static __always_inline u32 flow_hash(const struct packet *p, u32 seed)
{
	const u32 *s = p->source, *d = p->destination;
	u32 words = p->protocol == SCTP ? 2 : p->family == AF_INET ? 2 : 8;
	u32 a, b, c;

	if (p->protocol <= UDP)
		words += 2;
	a = b = c = 0xdeadbeef + (words << 2) + seed;
	if (p->protocol == SCTP) {
		a += p->source_port, b += p->destination_port;
	} else if (p->family == AF_INET) {
		a += s[0], b += d[0];
		if (p->protocol != ECHO) {
			c += p->source_port;
			MIX;
			a += p->destination_port;
		}
	} else {
		a += s[0], b += s[1], c += s[2];
		MIX;
		a += s[3], b += d[0], c += d[1];
		MIX;
		a += d[2], b += d[3];
		if (p->protocol != ECHO) {
			c += p->source_port;
			MIX;
			a += p->destination_port;
		}
	}
	FINAL;
	return c;
}
