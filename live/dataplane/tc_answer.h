/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Packets that we answer ourselves: TCP RST and ICMP errors. They leave by the interface that the packet came from, to the MAC address
 * that sent it: the way back that is certain, whatever the routes of this namespace say. Their source is the VIP.
 *
 * In two steps. `request_answer` cuts the packet and sends it through the slow device, which has no offloads: what comes out of it
 * carries no unfinished checksum (CHECKSUM_PARTIAL), which a program cannot see and which would spoil what is built around it.
 * `build_answer` then turns it round. In between, skb->mark says that it is such a packet, and a trailer what to do with it.
 */
#pragma once

#include <linux/tcp.h>

#include "tc_packet.h"

#define IPV4_QUOTE 548           /* RFC 1812, section 4.3.2.3: an error is at most 576 bytes */
#define IPV6_QUOTE 1232          /* RFC 4443, section 2.4 (c): at most the minimum MTU */
#define NS_PER_S 1000000000ull
#define ETHER 14

enum answer { REFUSED = 1, TOO_BIG, TIME_EXCEEDED };

/* Behind the packet on its way through the slow device. */
struct request {
	u32 what;
	u32 mtu;
	u32 ifindex;
};

static __always_inline int drop(enum drop reason)
{
	u32 key = reason;
	u64 *n = bpf_map_lookup_elem(&drops, &key);

	if (n)
		*n += 1;
	return TC_ACT_SHOT;
}

/* A token bucket of one second. */
static __always_inline bool may_answer(void)
{
	u32 zero = 0;
	struct counter *tokens = bpf_map_lookup_elem(&answers, &zero);
	u64 now = bpf_ktime_get_ns(), price = NS_PER_S / (limits.answers_per_s ?: 1);

	if (!tokens)
		return false;
	/* .packets: nanoseconds saved up, .bytes: when last looked at */
	tokens->packets += now - tokens->bytes;
	tokens->bytes = now;
	if (tokens->packets > NS_PER_S)
		tokens->packets = NS_PER_S;
	if (tokens->packets < price)
		return false;
	tokens->packets -= price;
	return true;
}

/* RFC 1812, section 4.3.2.7 and RFC 4443, section 2.4 (e): whom no error is sent to, and about what. */
static __always_inline bool may_be_answered(const struct packet *p)
{
	u32 first = bpf_ntohl(p->source[0]);

	if (p->is_error || p->place == LATER)
		return false;
	if (p->family == AF_INET)
		return first >> 28 < 14 && first >> 24 != 0 && first >> 24 != 127;
	return first >> 24 != 0xff && (p->source[0] | p->source[1] | p->source[2] | p->source[3]);
}

GLOBAL int request_answer(struct __sk_buff *skb, const struct packet *p, u32 what, u32 mtu)
{
	u32 most = skb->protocol == bpf_htons(ETH_P_IP) ? IPV4_QUOTE : IPV6_QUOTE, bytes = skb->len - ETHER;
	struct request request = { .what = what, .mtu = mtu, .ifindex = skb->ifindex };
	u32 end = ETHER + ((bytes < most ? bytes : most) & ~3u);

	if (!p || !may_be_answered(p) || !may_answer())
		return drop(DROP_UNANSWERED);
	if (bpf_skb_change_tail(skb, end + sizeof(request), 0) ||
	    bpf_skb_store_bytes(skb, end, &request, sizeof(request), 0))
		return drop(DROP_UNANSWERED);
	skb->mark = limits.answer_mark;
	return bpf_redirect(limits.slow_ifindex, 0);
}

struct summing {
	struct __sk_buff *skb;
	u32 offset;
	u64 sum;
};

static long add_word(u32 i, struct summing *s)
{
	u32 word;

	if (bpf_skb_load_bytes(s->skb, s->offset + 4 * i, &word, 4))
		return 1;
	s->sum += word;
	return 0;
}

/* The sum of `length` bytes of the frame, a multiple of 4. */
static __always_inline u64 sum_of(struct __sk_buff *skb, u32 offset, u32 length, u32 sum)
{
	struct summing s = { .skb = skb, .offset = offset, .sum = sum };

	bpf_loop(length / 4, add_word, &s, 0);
	return s.sum;
}

static __always_inline u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* RFC 792 and RFC 4443 have one form of header; linux/icmp.h needs a C library. */
struct icmp {
	u8 type;
	u8 code;
	u16 checksum;
	u32 rest; /* the MTU: its low 16 bits in RFC 1191, 32 bits in RFC 4443 */
};

struct pseudo6 {
	u32 source[4];
	u32 destination[4];
	u32 length;
	u32 next_header;
};

static __always_inline void reply_ipv4(struct iphdr *to, const struct iphdr *from, u8 protocol, u32 bytes)
{
	*to = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(*to) + bytes),
		.frag_off = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = protocol,
		.saddr = from->daddr,
		.daddr = from->saddr,
	};
	to->check = fold(bpf_csum_diff(0, 0, (u32 *)to, sizeof(*to), 0));
}

static __always_inline void reply_ipv6(struct ipv6hdr *to, const struct ipv6hdr *from, u8 protocol, u32 bytes)
{
	*to = (struct ipv6hdr){ .version = 6, .payload_len = bpf_htons(bytes), .nexthdr = protocol, .hop_limit = 64 };
	to->saddr = from->daddr;
	to->daddr = from->saddr;
}

static __always_inline s64 pseudo6_sum(const struct ipv6hdr *ip, u8 protocol, u32 bytes)
{
	struct pseudo6 pseudo = { .length = bpf_htonl(bytes), .next_header = bpf_htonl(protocol) };

	__builtin_memcpy(pseudo.source, &ip->saddr, 32);
	return bpf_csum_diff(0, 0, (u32 *)&pseudo, sizeof(pseudo), 0);
}

static __always_inline int send_back(struct __sk_buff *skb, u32 ifindex, const struct ethhdr *from)
{
	struct ethhdr to = { .h_proto = from->h_proto };

	__builtin_memcpy(to.h_dest, from->h_source, 6);
	__builtin_memcpy(to.h_source, from->h_dest, 6);
	if (bpf_skb_store_bytes(skb, 0, &to, sizeof(to), 0))
		return drop(DROP_INTERNAL);
	skb->mark = 0;
	return bpf_redirect(ifindex, 0);
}

/* RFC 9293, section 3.5.2: what a reset says depends on what it answers. */
static __always_inline bool reset_of(struct __sk_buff *skb, u32 l4, u32 end, struct tcphdr *to)
{
	struct tcphdr from;
	u32 data;

	if (bpf_skb_load_bytes(skb, l4, &from, sizeof(from)) || from.rst)
		return false;
	data = end - l4 - from.doff * 4 + from.syn + from.fin;
	*to = (struct tcphdr){ .source = from.dest, .dest = from.source, .doff = 5, .rst = 1 };
	if (from.ack) {
		to->seq = from.ack_seq;
	} else {
		to->ack = 1;
		to->ack_seq = bpf_htonl(bpf_ntohl(from.seq) + data);
	}
	return true;
}

static __always_inline int build_reset(struct __sk_buff *skb, const struct packet *p, u32 ifindex, const struct ethhdr *ether)
{
	struct tcphdr tcp;
	u32 l3 = p->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	u32 least = p->l4 + sizeof(tcp); /* longer than the reset when there were options: the rest is padding */

	if (!reset_of(skb, p->l4, p->end, &tcp) || bpf_skb_change_tail(skb, least, 0))
		return drop(DROP_UNANSWERED);
	if (p->family == AF_INET) {
		struct iphdr from, ip;
		struct {
			u32 source, destination;
			u8 zero, protocol;
			u16 length;
		} pseudo;

		if (bpf_skb_load_bytes(skb, ETHER, &from, sizeof(from)))
			return drop(DROP_INTERNAL);
		reply_ipv4(&ip, &from, IPPROTO_TCP, sizeof(tcp));
		pseudo.source = ip.saddr, pseudo.destination = ip.daddr;
		pseudo.zero = 0, pseudo.protocol = IPPROTO_TCP, pseudo.length = bpf_htons(sizeof(tcp));
		tcp.check = fold(bpf_csum_diff(0, 0, (u32 *)&tcp, sizeof(tcp),
					       bpf_csum_diff(0, 0, (u32 *)&pseudo, sizeof(pseudo), 0)));
		if (bpf_skb_store_bytes(skb, ETHER, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
			return drop(DROP_INTERNAL);
	} else {
		struct ipv6hdr from, ip;

		if (bpf_skb_load_bytes(skb, ETHER, &from, sizeof(from)))
			return drop(DROP_INTERNAL);
		reply_ipv6(&ip, &from, IPPROTO_TCP, sizeof(tcp));
		tcp.check = fold(bpf_csum_diff(0, 0, (u32 *)&tcp, sizeof(tcp), pseudo6_sum(&ip, IPPROTO_TCP, sizeof(tcp))));
		if (bpf_skb_store_bytes(skb, ETHER, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
			return drop(DROP_INTERNAL);
	}
	if (bpf_skb_store_bytes(skb, ETHER + l3, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM))
		return drop(DROP_INTERNAL);
	return send_back(skb, ifindex, ether);
}

static __always_inline int build_icmp4(struct __sk_buff *skb, const struct request *r, const struct ethhdr *ether)
{
	u32 quote = skb->len - ETHER;
	struct {
		struct iphdr ip;
		struct icmp icmp;
	} head;
	struct iphdr from;
	u64 sum;

	if (quote > IPV4_QUOTE || bpf_skb_load_bytes(skb, ETHER, &from, sizeof(from)) ||
	    bpf_skb_change_head(skb, sizeof(head), 0))
		return drop(DROP_UNANSWERED);
	reply_ipv4(&head.ip, &from, IPPROTO_ICMP, sizeof(head.icmp) + quote);
	/* RFC 792: port unreachable, fragmentation needed, TTL exceeded in transit. */
	head.icmp = (struct icmp){ .type = 3, .code = 3 };
	if (r->what == TOO_BIG)
		head.icmp = (struct icmp){ .type = 3, .code = 4, .rest = bpf_htonl(r->mtu) };
	else if (r->what == TIME_EXCEEDED)
		head.icmp = (struct icmp){ .type = 11, .code = 0 };
	sum = sum_of(skb, ETHER + sizeof(head), quote, bpf_csum_diff(0, 0, (u32 *)&head.icmp, sizeof(head.icmp), 0));
	head.icmp.checksum = fold(sum);
	if (bpf_skb_store_bytes(skb, ETHER, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return drop(DROP_INTERNAL);
	return send_back(skb, r->ifindex, ether);
}

static __always_inline int build_icmp6(struct __sk_buff *skb, const struct request *r, const struct ethhdr *ether)
{
	u32 quote = skb->len - ETHER;
	struct {
		struct ipv6hdr ip;
		struct icmp icmp;
	} head;
	struct ipv6hdr from;
	u64 sum;

	if (quote > IPV6_QUOTE || bpf_skb_load_bytes(skb, ETHER, &from, sizeof(from)) ||
	    bpf_skb_change_head(skb, sizeof(head), 0))
		return drop(DROP_UNANSWERED);
	reply_ipv6(&head.ip, &from, IPPROTO_ICMPV6, sizeof(head.icmp) + quote);
	/* RFC 4443: port unreachable, packet too big, hop limit exceeded in transit. */
	head.icmp = (struct icmp){ .type = 1, .code = 4 };
	if (r->what == TOO_BIG)
		head.icmp = (struct icmp){ .type = 2, .code = 0, .rest = bpf_htonl(r->mtu) };
	else if (r->what == TIME_EXCEEDED)
		head.icmp = (struct icmp){ .type = 3, .code = 0 };
	sum = bpf_csum_diff(0, 0, (u32 *)&head.icmp, sizeof(head.icmp),
			    pseudo6_sum(&head.ip, IPPROTO_ICMPV6, sizeof(head.icmp) + quote));
	sum = sum_of(skb, ETHER + sizeof(head), quote, sum);
	head.icmp.checksum = fold(sum);
	if (bpf_skb_store_bytes(skb, ETHER, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return drop(DROP_INTERNAL);
	return send_back(skb, r->ifindex, ether);
}

static __always_inline int build_answer(struct __sk_buff *skb)
{
	u32 end = skb->len - sizeof(struct request);
	struct request request;
	struct packet p = {};
	struct ethhdr ether;

	if (end < ETHER || end > ETHER + IPV6_QUOTE || bpf_skb_load_bytes(skb, end, &request, sizeof(request)) ||
	    bpf_skb_load_bytes(skb, 0, &ether, sizeof(ether)) || bpf_skb_change_tail(skb, end, 0))
		return drop(DROP_INTERNAL);
	if (ether.h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETHER, &ip, sizeof(ip)))
			return drop(DROP_INTERNAL);
		p.family = AF_INET;
		p.l4 = ETHER + ip.ihl * 4;
		p.end = ETHER + bpf_ntohs(ip.tot_len);
		p.next_header = ip.protocol;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETHER, &ip, sizeof(ip)))
			return drop(DROP_INTERNAL);
		p.family = AF_INET6;
		p.l4 = ETHER + sizeof(ip);
		p.end = ETHER + sizeof(ip) + bpf_ntohs(ip.payload_len);
		p.next_header = ip.nexthdr;
		if (!skip_extensions(skb, &p))
			return drop(DROP_INTERNAL);
	}
	if (request.what == REFUSED && p.next_header == IPPROTO_TCP)
		return build_reset(skb, &p, request.ifindex, &ether);
	return p.family == AF_INET ? build_icmp4(skb, &request, &ether) : build_icmp6(skb, &request, &ether);
}
