// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The tc data plane: packets to a VIP go to the target that the core's classifier, flow hash and table say, with nothing changed but
 * the MAC addresses and the TTL. Everything else passes untouched.
 *
 *   tg_ingress   at the ingress of every interface that VIP traffic may come from
 *   tg_answer    at the end of the slow device: packets to be answered
 *   tg_slow      behind it: fragments that the kernel has put in order, and what this host sends to a VIP
 *
 * Maps are in tc_maps.h; live/dataplane/tc_program.py makes and fills them.
 */
#include "tc_maps.h"
#include "tc_packet.h"
#include "tc_answer.h"
#include "tc_decide.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL"; /* GPL-compatible, or the kernel refuses the helpers */

#define NEXT -1 /* TCX_NEXT: not ours; other programs and then the kernel decide */
#define PACKET_HOST 0

struct decision {
	enum verdict verdict;
	u32 counter;
	struct target target;
};

static __always_inline int to_be_ordered(struct __sk_buff *skb)
{
	skb->mark = limits.fragment_mark;
	return NEXT;
}

static __always_inline void count(struct __sk_buff *skb, u32 counter)
{
	struct counter *c = bpf_map_lookup_elem(&counters, &counter);

	if (c) {
		c->packets += 1;
		c->bytes += skb->len - ETHER;
	}
}

/* The TTL of a packet that is forwarded; false: it has come to its end. */
static __always_inline bool spend_hop(struct __sk_buff *skb, u32 family)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (family == AF_INET) {
		struct iphdr *ip = data + ETHER;
		u32 check;

		if ((void *)(ip + 1) > end || ip->ttl <= 1)
			return false;
		/* RFC 1141: the sum changes by what the word of the TTL changes. */
		check = ip->check + bpf_htons(0x0100);
		ip->check = check + (check >= 0xffff);
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = data + ETHER;

		if ((void *)(ip + 1) > end || ip->hop_limit <= 1)
			return false;
		ip->hop_limit--;
		/* IPv6 has no checksum that makes up for it in one that hardware took over the whole packet. */
		bpf_csum_update(skb, ~(u32)bpf_htons(1));
	}
	return true;
}

/* Whether some packet of it is longer than `mtu` on the wire: an skb may stand for many segments. */
static __always_inline bool too_big(struct __sk_buff *skb, const struct packet *p, u32 mtu)
{
	u32 bytes = p->end - ETHER;

	if (bytes <= mtu)
		return false;
	if (skb->gso_size) {
		u8 offset = 0;

		if (p->next_header == IPPROTO_TCP && bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1))
			return true;
		bytes = p->l4 - ETHER + (p->next_header == IPPROTO_TCP ? offset >> 4 << 2 : 8) + skb->gso_size;
	}
	return bytes > mtu;
}

static __always_inline bool may_be_fragmented(struct __sk_buff *skb, const struct packet *p)
{
	u16 offset;

	return p->family == AF_INET && !bpf_skb_load_bytes(skb, ETHER + 6, &offset, 2) && !(offset & bpf_htons(0x4000));
}

/* What the image and the tables say about a packet with ports. */
static __always_inline struct decision decide(struct __sk_buff *skb, const void *image, const struct packet *p, u32 group)
{
	struct decision d = { .verdict = DROP };
	struct walk w = { .image = image, .skb = skb, .packet = p };
	const u32 *flow, *header = cell(image, 0);
	const struct bucket *table;
	struct target *target;
	u32 zero = 0, n;
	void *pool;

	w.reference = cell(image, group)[GROUP_AT + (p->protocol & 3)];
	w.key[KEY_DESTINATION_PORT] = bpf_ntohs(p->destination_port);
	w.key[KEY_SOURCE_PORT] = bpf_ntohs(p->source_port);
	flow = classify(&w);
	if (!flow)
		return d;
	n = ((u64)flow_hash(p, header[0]) * flow[2]) >> 32;
	pool = bpf_map_lookup_elem(&pools, &flow[1]);
	if (!pool)
		return d;
	table = bpf_map_lookup_elem(pool, &zero);
	if (!table || n >= limits.table_entries)
		return d;
	table += n;
	d.counter = flow[3] + table->counter;
	d.verdict = table->target == REJECT ? REFUSE : FORWARD;
	target = bpf_map_lookup_elem(&targets, &table->target);
	if (target)
		d.target = *target;
	return d;
}

static __always_inline int carry_out(struct __sk_buff *skb, const struct packet *p, const struct decision *d, bool slow)
{
	const struct target *t = &d->target;
	struct bpf_redir_neigh hop = { .nh_family = t->family };
	enum answer answer = REFUSED;

	if (d->verdict == IN_ORDER)
		return slow ? drop(DROP_FRAGMENT) : to_be_ordered(skb);
	if (d->verdict == DROP)
		return drop(p->place == LATER ? DROP_FRAGMENT : DROP_NO_FLOW);
	if (d->verdict == FORWARD) {
		if (!t->ifindex)
			return drop(DROP_NO_TARGET);
		if (too_big(skb, p, t->mtu)) {
			if (may_be_fragmented(skb, p))
				return slow ? drop(DROP_INTERNAL) : to_be_ordered(skb);
			answer = TOO_BIG;
		} else if (!slow && !spend_hop(skb, p->family)) {
			/* Of what comes out of the slow device, the kernel has counted the hop. */
			answer = TIME_EXCEEDED;
		} else {
			count(skb, d->counter);
			__builtin_memcpy(hop.ipv6_nh, t->next_hop, 16);
			return bpf_redirect_neigh(t->ifindex, &hop, sizeof(hop), 0);
		}
	} else {
		count(skb, d->counter);
	}
	return request_answer(skb, p, answer, answer == TOO_BIG ? t->mtu : 0);
}

static __always_inline void key_of(const struct packet *p, struct fragment_key *key)
{
	__builtin_memcpy(key->source, p->source, 16);
	__builtin_memcpy(key->destination, p->destination, 16);
	key->id = p->id;
	/* RFC 8200, section 4.5: the next header of fragments may differ, and only the first one's counts. */
	key->protocol = p->family == AF_INET ? p->next_header : ANY_PROTOCOL;
}

static __always_inline u64 held_until(void)
{
	return bpf_ktime_get_ns() + limits.fragment_hold_ms * 1000000ull;
}

/* A fragment behind the first: it follows the first one, and waits for it in the kernel if it came before. */
static __always_inline struct decision later_fragment(const struct packet *p, bool slow)
{
	struct fragment wait = { .until_ns = held_until(), .verdict = IN_ORDER };
	struct decision d = { .verdict = DROP };
	struct fragment_key key;
	struct fragment *seen;

	key_of(p, &key);
	seen = bpf_map_lookup_elem(&fragments, &key);
	if (seen && seen->until_ns < bpf_ktime_get_ns()) {
		bpf_map_delete_elem(&fragments, &key);
		seen = 0;
	}
	if (!seen && !slow) {
		/* The first one may be on its way on another CPU: whoever comes first decides for both. */
		bpf_map_update_elem(&fragments, &key, &wait, BPF_NOEXIST);
		seen = bpf_map_lookup_elem(&fragments, &key);
	}
	if (seen) {
		d.verdict = seen->verdict;
		d.counter = seen->counter;
		d.target = seen->target;
	}
	return d;
}

/* Notes where the others go; they may have come first: then this one must go the same way to the kernel. */
static __always_inline void first_fragment(const struct packet *p, struct decision *d, bool slow)
{
	struct fragment entry = {
		.until_ns = held_until(),
		.verdict = d->verdict == FORWARD ? FORWARD : DROP,
		.counter = d->counter,
		.target = d->target,
	};
	struct fragment_key key;
	struct fragment *seen;

	key_of(p, &key);
	if (!slow) {
		if (!bpf_map_update_elem(&fragments, &key, &entry, BPF_NOEXIST))
			return;
		seen = bpf_map_lookup_elem(&fragments, &key);
		if (seen && seen->verdict == IN_ORDER && seen->until_ns >= bpf_ktime_get_ns()) {
			d->verdict = IN_ORDER;
			return;
		}
	}
	bpf_map_update_elem(&fragments, &key, &entry, BPF_ANY);
}

static __always_inline bool readable(struct __sk_buff *skb, u32 bytes)
{
	return (void *)(long)skb->data + bytes <= (void *)(long)skb->data_end;
}

/* Fills in all but what is behind the IP header; 0: not IP, or not whole. */
static __always_inline bool parse_l3(struct __sk_buff *skb, struct packet *p)
{
	void *data, *end;
	u16 fragment;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip;

		/*
		 * With the ports of TCP and UDP behind it, in the part of the packet that can be read directly. A last fragment may be
		 * shorter than ports are, and not every link fills it up.
		 */
		if (!readable(skb, ETHER + sizeof(*ip) + 4) &&
		    bpf_skb_pull_data(skb, skb->len < ETHER + sizeof(*ip) + 4 ? skb->len : ETHER + sizeof(*ip) + 4))
			return false;
		data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
		ip = data + ETHER;
		if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
			return false;
		p->family = AF_INET;
		p->source[0] = ip->saddr;
		p->destination[0] = ip->daddr;
		p->next_header = ip->protocol;
		p->l4 = ETHER + ip->ihl * 4;
		p->end = ip->tot_len ? ETHER + bpf_ntohs(ip->tot_len) : skb->len;
		fragment = ip->frag_off & bpf_htons(0x3fff);
		p->id = ip->id;
		p->place = !fragment ? WHOLE : fragment & bpf_htons(0x1fff) ? LATER : FIRST;
		return true;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip;

		if (!readable(skb, ETHER + sizeof(*ip)) && bpf_skb_pull_data(skb, ETHER + sizeof(*ip)))
			return false;
		data = (void *)(long)skb->data, end = (void *)(long)skb->data_end;
		ip = data + ETHER;
		if ((void *)(ip + 1) > end || ip->version != 6)
			return false;
		p->family = AF_INET6;
		__builtin_memcpy(p->source, &ip->saddr, 32); /* and the destination */
		p->next_header = ip->nexthdr;
		p->l4 = ETHER + sizeof(*ip);
		p->end = ip->payload_len ? p->l4 + bpf_ntohs(ip->payload_len) : skb->len;
		return true;
	}
	return false;
}

static __always_inline int balance(struct __sk_buff *skb, bool slow)
{
	u32 zero = 0, group;
	struct packet p = {};
	struct decision d;
	void *inner, *image;

	if (!parse_l3(skb, &p))
		return NEXT;
	inner = bpf_map_lookup_elem(&image_slot, &zero);
	if (!inner)
		return NEXT;
	image = bpf_map_lookup_elem(inner, &zero);
	if (!image)
		return NEXT;
	group = find(image, p.destination, p.family, p.family == AF_INET ? 2 : 8);
	if (!group)
		return NEXT;
	if (p.end > skb->len || (p.family == AF_INET6 && !skip_extensions(skb, &p)))
		return drop(DROP_UNPARSED);
	if (p.place == LATER) {
		d = later_fragment(&p, slow);
	} else {
		if (!parse_l4(skb, &p))
			return drop(DROP_UNPARSED);
		if (p.is_error)
			group = find(image, p.destination, p.family, p.family == AF_INET ? 2 : 8);
		d = decide(skb, image, &p, group);
		if (p.place == FIRST)
			first_fragment(&p, &d, slow);
	}
	return carry_out(skb, &p, &d, slow);
}

SEC("tc")
int tg_ingress(struct __sk_buff *skb)
{
	/* Frames for others reach us through flooding bridges; frames with a tag belong to a VLAN device above this one. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return NEXT;
	return balance(skb, false);
}

SEC("tc")
int tg_answer(struct __sk_buff *skb)
{
	return skb->mark == limits.answer_mark ? build_answer(skb) : NEXT;
}

SEC("tc")
int tg_slow(struct __sk_buff *skb)
{
	int verdict;

	/* Marked: fragments in order. Else what this host itself has to say to a VIP (live/dataplane/fence.py). */
	if (skb->mark == limits.fragment_mark)
		skb->mark = 0;
	verdict = balance(skb, true);
	/* Nothing goes up from here: no VIP is local. */
	return verdict == NEXT ? TC_ACT_SHOT : verdict;
}
