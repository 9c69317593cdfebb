/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * From the frame to what decides about it: addresses, protocol, ports. An ICMP error is its inner packet, swapped.
 */
#pragma once

#include "tc_maps.h"

/* The verifier looks at a global function once, not at every call; it wants pointers checked. */
#define GLOBAL __attribute__((noinline))

#define MAX_EXTENSIONS 8
#define EXTENSION_FRAGMENT 44

enum protocol { TCP, UDP, SCTP, ECHO }; /* the order of a group's references (tc_image.PROTOCOLS) */
enum place { WHOLE, FIRST, LATER };     /* of a fragment */

struct packet {
	u32 source[4];
	u32 destination[4];
	u32 source_port; /* as the flow hash takes it: two network-order bytes, then two zero bytes */
	u32 destination_port;
	u32 l4;  /* offset of the L4 header in the frame */
	u32 end; /* offset behind the last byte of the IP packet: frames are padded */
	u32 id;
	u8 family;
	u8 protocol;
	u8 place;
	u8 next_header;
	bool is_error; /* an ICMP error */
};

/* Walks the extension headers of IPv6 from p->l4 and p->next_header on; false: too many of them, or cut short. */
GLOBAL int skip_extensions(struct __sk_buff *skb, struct packet *p)
{
	struct {
		u8 next_header;
		u8 length;
		u16 offset;
		u32 id;
	} header;

	if (!p)
		return false;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		u8 kind = p->next_header;
		bool long_units = kind == IPPROTO_HOPOPTS || kind == IPPROTO_ROUTING || kind == IPPROTO_DSTOPTS;

		if (!long_units && kind != EXTENSION_FRAGMENT && kind != IPPROTO_AH)
			return true;
		if (p->place == LATER)
			return true;
		if (bpf_skb_load_bytes(skb, p->l4, &header, sizeof(header)))
			return false;
		p->next_header = header.next_header;
		if (kind == EXTENSION_FRAGMENT) {
			p->l4 += 8;
			/* RFC 6946: neither an offset nor more to come is a whole packet. */
			if (header.offset & bpf_htons(0xfff8))
				p->place = LATER;
			else if (header.offset & bpf_htons(1))
				p->place = FIRST;
			p->id = header.id;
		} else if (kind == IPPROTO_AH) {
			p->l4 += (header.length + 2) * 4; /* RFC 4302, section 2.2 */
		} else {
			p->l4 += (header.length + 1) * 8;
		}
	}
	return false;
}

/* The packet inside an ICMP error, at offset `at`: it went from us to the other side, so source and destination change places. */
GLOBAL int parse_inner(struct __sk_buff *skb, struct packet *p, u32 at)
{
	struct packet inner = { .l4 = at };
	u32 ports;
	u8 type;

	if (!p)
		return false;
	p->is_error = true;
	if (p->family == AF_INET) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip.frag_off & bpf_htons(0x1fff))
			return false;
		inner.l4 += ip.ihl * 4;
		inner.next_header = ip.protocol;
		p->source[0] = ip.daddr;
		p->destination[0] = ip.saddr;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		inner.l4 += sizeof(ip);
		inner.next_header = ip.nexthdr;
		if (!skip_extensions(skb, &inner) || inner.place == LATER)
			return false;
		__builtin_memcpy(p->source, &ip.daddr, 16);
		__builtin_memcpy(p->destination, &ip.saddr, 16);
	}
	switch (inner.next_header) {
	case IPPROTO_TCP:
		p->protocol = TCP;
		break;
	case IPPROTO_UDP:
		p->protocol = UDP;
		break;
	case IPPROTO_SCTP:
		p->protocol = SCTP;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((inner.next_header == IPPROTO_ICMP) != (p->family == AF_INET) ||
		    bpf_skb_load_bytes(skb, inner.l4, &type, 1))
			return false;
		p->protocol = ECHO;
		/* Echo and echo reply. */
		return p->family == AF_INET ? type == 8 || type == 0 : type == 128 || type == 129;
	default:
		return false;
	}
	if (bpf_skb_load_bytes(skb, inner.l4, &ports, 4))
		return false;
	p->destination_port = ports & 0xffff;
	p->source_port = ports >> 16;
	return true;
}

static __always_inline bool parse_icmp(struct __sk_buff *skb, struct packet *p)
{
	u8 type;

	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return false;
	/* Echo and echo reply. */
	if (p->family == AF_INET ? type == 8 || type == 0 : type == 128 || type == 129) {
		p->protocol = ECHO;
		return true;
	}
	/* RFC 792: unreachable, quench, time exceeded, parameter problem. RFC 4443, section 2.1: 1 to 4. */
	if (p->family == AF_INET ? type == 3 || type == 4 || type == 11 || type == 12 : type >= 1 && type <= 4)
		return parse_inner(skb, p, p->l4 + 8);
	return false;
}

/* The L4 part, after the addresses; false: no packet of ours can look like this. */
static __always_inline bool parse_l4(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 *ports = data + (p->l4 & 0x3ff), copy;

	switch (p->next_header) {
	case IPPROTO_TCP:
		p->protocol = TCP;
		break;
	case IPPROTO_UDP:
		p->protocol = UDP;
		break;
	case IPPROTO_SCTP:
		p->protocol = SCTP;
		break;
	case IPPROTO_ICMP:
		return p->family == AF_INET && parse_icmp(skb, p);
	case IPPROTO_ICMPV6:
		return p->family == AF_INET6 && parse_icmp(skb, p);
	default:
		return false;
	}
	if (p->l4 + 4 > p->end)
		return false;
	if ((void *)(ports + 1) <= end && p->l4 < 0x400)
		copy = *ports;
	else if (bpf_skb_load_bytes(skb, p->l4, &copy, 4))
		return false;
	p->source_port = copy & 0xffff;
	p->destination_port = copy >> 16;
	return true;
}
