/* From one pod of this node to another without the host's stack: what leaves a pod is handed to the other end of the
 * other pod's veth (bpf_redirect_peer, kernel 5.10), as if it had been sent there.
 *
 * What the stack does with a packet between pods must not be missed. It translates some: those of clients whose socket
 * was told nothing, a hostPort's; and it sends some of its own in a pod's name: the relay's. Such packets reach a pod
 * by the host's end of its veth, where np_to_pod writes them down, so that np_from_pod lets their answers pass.
 * Which they are is seen by what the packet said when it entered: np_from_pod stamps it (tc_index) where it was
 * addressed to a pod already, and a stamp that does not fit any more, or is not there, means that somebody was at it.
 *
 * Everything but whole TCP and UDP packets goes by the stack, and so does a packet that has come to the end of its
 * hops there. Nothing in a packet is changed: its hop limit and its link-layer addresses stay as the sender wrote them.
 *
 * Attached to the host's end of each pod's veth, by tcx where the kernel has it (6.6), else by clsact. */
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include "pods.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

struct packet { /* whose it is */
    struct address from;
    struct address to;
    __be16 from_port;
    __be16 to_port;
    __u8 protocol;
};

enum { STACK = TC_ACT_UNSPEC };                 /* other programs at this link have their turn */
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, OPTIONS = 60, MOST_HEADERS = 8 };
static const __be16 PART = bpf_htons(0x3fff);   /* of IPv4's fragment field: more follow, or others came before */
static const __be16 LATER = bpf_htons(0x1fff);  /* others came before */
static const __be16 LATER6 = bpf_htons(0xfff8);

static __always_inline int has_ports(__u8 protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

/* Whose a packet is that may take the short way: a whole one, with the plainest headers and a hop to spare. */
static __always_inline int read_plain(const struct __sk_buff *skb, struct packet *packet) {
    void *start = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    const __be16 *ports;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        const struct iphdr *ip = start + sizeof(struct ethhdr);
        ports = (const void *)(ip + 1);
        if ((const void *)(ports + 2) > end || ip->ihl != 5 || ip->ttl < 2 || ip->frag_off & PART) return 0;
        packet->from.word[2] = packet->to.word[2] = MAPPED;
        packet->from.word[3] = ip->saddr;
        packet->to.word[3] = ip->daddr;
        packet->protocol = ip->protocol;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        const struct ipv6hdr *ip = start + sizeof(struct ethhdr);
        ports = (const void *)(ip + 1);
        if ((const void *)(ports + 2) > end || ip->hop_limit < 2) return 0;
        __builtin_memcpy(&packet->from, &ip->saddr, sizeof(packet->from));
        __builtin_memcpy(&packet->to, &ip->daddr, sizeof(packet->to));
        packet->protocol = ip->nexthdr;
    } else {
        return 0;
    }
    if (!has_ports(packet->protocol)) return 0;
    packet->from_port = ports[0];
    packet->to_port = ports[1];
    return 1;
}

/* Where the ports are in an IPv6 packet with any headers before them; 0 where there are none. */
static __always_inline __u32 past_headers(struct __sk_buff *skb, __u8 next, __u8 *protocol) {
    __u32 at = sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
    for (int i = 0; i < MOST_HEADERS; i++) {
        struct {
            __u8 next, length;
            __be16 offset;
        } header;
        if (has_ports(next)) {
            *protocol = next;
            return at;
        }
        if (bpf_skb_load_bytes(skb, at, &header, sizeof(header))) return 0;
        if (next == HOP_BY_HOP || next == ROUTING || next == OPTIONS)
            at += (header.length + 1) * 8;
        else if (next == AUTHENTICATION)
            at += (header.length + 2) * 4;
        else if (next == FRAGMENT && !(header.offset & LATER6))
            at += 8;
        else
            return 0;
        next = header.next;
    }
    return 0;
}

/* Whose any packet with ports is, a first fragment included: none may escape that is to be written down. */
static __always_inline int read_any(struct __sk_buff *skb, struct packet *packet) {
    __u32 at = sizeof(struct ethhdr);
    __be16 ports[2];
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.frag_off & LATER || !has_ports(ip.protocol)) return 0;
        packet->from.word[0] = packet->from.word[1] = packet->to.word[0] = packet->to.word[1] = 0;
        packet->from.word[2] = packet->to.word[2] = MAPPED;
        packet->from.word[3] = ip.saddr;
        packet->to.word[3] = ip.daddr;
        packet->protocol = ip.protocol;
        at += ip.ihl * 4;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip))) return 0;
        __builtin_memcpy(&packet->from, &ip.saddr, sizeof(packet->from));
        __builtin_memcpy(&packet->to, &ip.daddr, sizeof(packet->to));
        at = past_headers(skb, ip.nexthdr, &packet->protocol);
    } else {
        return 0;
    }
    if (!at || bpf_skb_load_bytes(skb, at, ports, sizeof(ports))) return 0;
    packet->from_port = ports[0];
    packet->to_port = ports[1];
    return 1;
}

/* What a packet to a pod is stamped with; never 0, which is a packet that nobody stamped. */
static __always_inline __u16 stamp(const struct packet *packet) {
    __u16 both = packet->from_port ^ packet->to_port;
    return both ? both : 0xffff;
}

/* Any order will do, as long as `hostrouting/layout.py` has the same; the last word mostly decides. */
static __always_inline int is_lower(const struct address *one, const struct address *other) {
    for (int i = 3; i > 0; i--)
        if (one->word[i] != other->word[i]) return one->word[i] < other->word[i];
    return one->word[0] < other->word[0];
}

static __always_inline struct flow flow_of(const struct packet *packet) {
    int first = is_lower(&packet->from, &packet->to);
    return (struct flow){.low = first ? packet->from : packet->to,
                         .high = first ? packet->to : packet->from,
                         .low_port = first ? packet->from_port : packet->to_port,
                         .high_port = first ? packet->to_port : packet->from_port,
                         .protocol = packet->protocol};
}

static __always_inline int is_translated(const struct packet *packet) {
    struct flow flow = flow_of(packet);
    return bpf_map_lookup_elem(&translated, &flow) != 0;
}

static __always_inline int is_full(void) {
    __u32 at = MISSED, other = ANSWERED;
    __u64 *missed = bpf_map_lookup_elem(&overflow, &at), *answered = bpf_map_lookup_elem(&overflow, &other);
    return !missed || !answered || *missed != *answered;
}

/* Whether a pod's link is still there, and may be gone past. */
static __always_inline int is_alive(const struct pod *pod) {
    __u32 link = pod->link;
    return bpf_map_lookup_elem(&links, &link) != 0;
}

SEC("tc") int np_from_pod(struct __sk_buff *skb) {
    struct packet packet = {};
    int plain = read_plain(skb, &packet);
    if (!plain && !read_any(skb, &packet)) return STACK;
    struct pod *to = bpf_map_lookup_elem(&pods, &packet.to);
    if (!to) return STACK;
    struct pod *from = bpf_map_lookup_elem(&pods, &packet.from);
    if (plain && from && from->link == skb->ifindex && from->ready && to->ready && is_alive(to) && !is_full() &&
        !is_translated(&packet))
        return bpf_redirect_peer(to->link, 0);
    skb->tc_index = stamp(&packet);
    return STACK;
}

SEC("tc") int np_to_pod(struct __sk_buff *skb) {
    struct packet packet = {};
    if (!read_any(skb, &packet) || skb->tc_index == stamp(&packet)) return STACK;
    struct pod *from = bpf_map_lookup_elem(&pods, &packet.from), *to = bpf_map_lookup_elem(&pods, &packet.to);
    if (!from || !to || !is_alive(from)) return STACK; /* what is no pod yet is looked for when it becomes one */
    struct flow flow = flow_of(&packet);
    __u64 now = bpf_ktime_get_coarse_ns();
    __u64 *seen = bpf_map_lookup_elem(&translated, &flow);
    if (seen) {
        *seen = now;
    } else if (bpf_map_update_elem(&translated, &flow, &now, BPF_ANY)) { /* before Linux 6.4 the sign may be lost */
        __u32 at = MISSED;
        __u64 *missed = bpf_map_lookup_elem(&overflow, &at);
        if (missed) __sync_fetch_and_add(missed, 1);
    }
    return STACK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
