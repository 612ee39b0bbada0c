/* Services at the socket: where a program of this node says connect() or sendto() to a frontend, the kernel is
 * told an endpoint instead, once; the packets then go as if the program had known. What is not decided here
 * (silence, source ranges, UDP without endpoints, other protocols) passes unchanged and meets the nftables table
 * that serves clients outside, so both give the same answer.
 *
 * Attached to the node's cgroup. Hooks and what they may return: kernel, net/core/filter.c (sock_addr). */
#include "maps.h"

#define AF_INET 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ECONNREFUSED 111

enum { PASS = 1, REFUSE = 0 };
enum { SEARCH_STEPS = 17, TRIES = 3 };               /* 2^16 endpoints; a block may go while it is read */
static const __u64 SECOND = 1000000000ull;
static const __u32 CONVERSATION = 60;                /* seconds of silence that end one by an unconnected socket */

const volatile __u32 seed;       /* processors and nodes do not all begin with the first endpoint */
const volatile __u8 can_refuse;  /* bpf_set_retval, kernel 5.18: refused without a packet */

static __always_inline int is_mapped(const struct address *a) {
    return !a->word[0] && !a->word[1] && a->word[2] == MAPPED;
}

static __always_inline int is_loopback4(__be32 address) { return bpf_ntohl(address) >> 24 == 127; }

/* Programs may say 0.0.0.0 and :: for loopback; all of 127.0.0.0/8 is one address here. */
static __always_inline void normalize(struct address *a) {
    if (is_mapped(a)) {
        if (!a->word[3] || is_loopback4(a->word[3])) a->word[3] = bpf_htonl(0x7f000001);
    } else if (!a->word[0] && !a->word[1] && !a->word[2] && !a->word[3]) {
        a->word[3] = bpf_htonl(1);
    }
}

static __always_inline struct route *find(struct bpf_sock_addr *ctx, const struct frontend *asked) {
    struct frontend key = *asked;
    normalize(&key.address);
    struct route *route = bpf_map_lookup_elem(&frontends, &key);
    if (route) return route;
    __u64 *only = bpf_map_lookup_elem(&node_addresses, &key.address);
    if (!only || (*only && *only != bpf_get_netns_cookie(ctx))) return 0;
    if (is_mapped(&key.address))
        key.address.word[3] = 0;
    else
        key.address = (struct address){};
    return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline int compare(const struct endpoint *a, const struct endpoint *b) {
    for (int i = 0; i < 4; i++) {
        __u32 x = bpf_ntohl(a->address.word[i]), y = bpf_ntohl(b->address.word[i]);
        if (x != y) return x < y ? -1 : 1;
    }
    __u32 x = bpf_ntohs(a->port), y = bpf_ntohs(b->port);
    return x == y ? 0 : x < y ? -1 : 1;
}

/* Whether an endpoint is (still) in a block. */
static __always_inline int has(__u32 block, __u32 count, const struct endpoint *wanted) {
    __u32 low = 0, high = count;
    for (int step = 0; step < SEARCH_STEPS && low < high; step++) {
        struct position at = {block, (low + high) / 2};
        struct endpoint *found = bpf_map_lookup_elem(&endpoints, &at);
        if (!found) return 0;
        int order = compare(found, wanted);
        if (!order) return 1;
        if (order < 0)
            low = at.index + 1;
        else
            high = at.index;
    }
    return 0;
}

/* One more of this Service's connections on this processor: whose turn it is. */
static __always_inline __u32 turn(__u32 service) {
    __u64 *count = bpf_map_lookup_elem(&counts, &service);
    __u64 number = count ? (*count)++ : bpf_get_prandom_u32();
    return (__u32)number + seed + bpf_get_smp_processor_id() * 7 + service * 31;
}

/* An endpoint in turn. False where the frontend has none. */
static __always_inline int pick(const struct route *route, struct endpoint *chosen) {
    __u32 slot = route->slot, number = 0;
    for (int i = 0; i < TRIES; i++) {
        volatile __u64 *word = bpf_map_lookup_elem(&slots, &slot);
        if (!word) return 0;
        __u64 at = *word;
        __u32 count = (at >> 32) & 0xffff;
        if (!count) return 0;
        if (!i) number = turn(route->service);
        struct position position = {(__u32)at, number % count};
        struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &position);
        if (endpoint) {
            *chosen = *endpoint;
            return 1;
        }
    }
    return 0;
}

/* The endpoint that this client, or this socket's conversation, is with; else one in turn, and it stays there. */
static __always_inline int stay(const struct route *route, void *stays, const struct sticker *key, __u32 seconds,
                                struct endpoint *chosen) {
    __u64 now = bpf_ktime_get_ns();
    __u32 slot = route->slot;
    struct choice *kept = bpf_map_lookup_elem(stays, key);
    volatile __u64 *word = bpf_map_lookup_elem(&slots, &slot);
    if (kept && word && now - kept->seen < seconds * SECOND) {
        struct endpoint wanted = kept->endpoint;
        __u64 at = *word;
        if (has((__u32)at, (at >> 32) & 0xffff, &wanted)) {
            kept->seen = now;
            if (stays == &choices) turn(route->service); /* counted, though nobody's turn */
            *chosen = wanted;
            return 1;
        }
    }
    if (!pick(route, chosen)) return 0;
    struct choice made = {.endpoint = *chosen, .seen = now};
    bpf_map_update_elem(stays, key, &made, BPF_ANY);
    return 1;
}

static __always_inline void remember(__u64 socket, const struct frontend *asked, const struct endpoint *chosen,
                                     __u32 service, int datagram) {
    struct origin_key key = {
        .socket = socket, .address = chosen->address, .port = chosen->port, .protocol = asked->protocol};
    struct origin value = {.address = asked->address, .port = asked->port, .service = service};
    if (!datagram) {
        bpf_map_update_elem(&origins, &key, &value, BPF_ANY);
        return;
    }
    struct origin *known = bpf_map_lookup_elem(&said, &key);
    if (known && known->service == service && known->port == value.port &&
        known->address.word[3] == value.address.word[3])
        return;
    bpf_map_update_elem(&said, &key, &value, BPF_ANY);
}

/* The whole decision for one connect or one datagram. `asked` becomes the endpoint where the answer is PASS and
 * `changed` is set. */
static __always_inline int decide(struct bpf_sock_addr *ctx, struct frontend *asked, int datagram, int *changed) {
    struct endpoint chosen = {};
    struct route *found = find(ctx, asked);
    if (!found) return PASS;
    struct route route = *found;
    __u64 socket = bpf_get_socket_cookie(ctx);
    int served;
    if (route.affinity) {
        struct sticker who = {bpf_get_netns_cookie(ctx), route.service, 0};
        served = stay(&route, &choices, &who, route.affinity, &chosen);
    } else if (datagram) {
        struct sticker who = {socket, route.service, 0};
        served = stay(&route, &conversations, &who, CONVERSATION, &chosen);
    } else {
        served = pick(&route, &chosen);
    }
    if (!served) {
        if (!can_refuse || asked->protocol != IPPROTO_TCP) return PASS;
        bpf_set_retval(-ECONNREFUSED);
        return REFUSE;
    }
    remember(socket, asked, &chosen, route.service, datagram);
    asked->address = chosen.address;
    asked->port = chosen.port;
    *changed = 1;
    return PASS;
}

static __always_inline struct frontend said4(struct bpf_sock_addr *ctx) {
    return (struct frontend){
        .address = {{0, 0, MAPPED, ctx->user_ip4}}, .port = ctx->user_port, .protocol = ctx->protocol};
}

static __always_inline struct frontend said6(struct bpf_sock_addr *ctx) {
    return (struct frontend){
        .address = {{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}},
        .port = ctx->user_port,
        .protocol = ctx->protocol};
}

static __always_inline void say4(struct bpf_sock_addr *ctx, const struct address *address, __be16 port) {
    ctx->user_ip4 = address->word[3];
    ctx->user_port = port;
}

static __always_inline void say6(struct bpf_sock_addr *ctx, const struct address *address, __be16 port) {
    ctx->user_ip6[0] = address->word[0];
    ctx->user_ip6[1] = address->word[1];
    ctx->user_ip6[2] = address->word[2];
    ctx->user_ip6[3] = address->word[3];
    ctx->user_port = port;
}

/* What is bound to loopback cannot leave this machine, so an endpoint is of no use to it: the node's own listeners at
 * loopback serve NodePorts, and the table beneath refuses the rest at once. */
static __always_inline int stays_here4(struct bpf_sock_addr *ctx, int datagram) {
    if (datagram) return is_loopback4(ctx->msg_src_ip4);
    struct bpf_sock *socket = ctx->sk;
    return socket && is_loopback4(socket->src_ip4);
}

static __always_inline int stays_here6(struct bpf_sock_addr *ctx, int datagram) {
    struct address from = {};
    struct bpf_sock *socket = ctx->sk;
    if (datagram) {
        from = (struct address){{ctx->msg_src_ip6[0], ctx->msg_src_ip6[1], ctx->msg_src_ip6[2], ctx->msg_src_ip6[3]}};
    } else if (socket) {
        from = (struct address){{socket->src_ip6[0], socket->src_ip6[1], socket->src_ip6[2], socket->src_ip6[3]}};
    }
    if (from.word[0] || from.word[1]) return 0;
    return from.word[2] == MAPPED ? is_loopback4(from.word[3]) : !from.word[2] && from.word[3] == bpf_htonl(1);
}

static __always_inline int outward4(struct bpf_sock_addr *ctx, int datagram) {
    if (stays_here4(ctx, datagram)) return PASS;
    struct frontend to = said4(ctx);
    int changed = 0, verdict = decide(ctx, &to, datagram, &changed);
    if (changed) say4(ctx, &to.address, to.port);
    return verdict;
}

static __always_inline int outward6(struct bpf_sock_addr *ctx, int datagram) {
    if (stays_here6(ctx, datagram)) return PASS;
    struct frontend to = said6(ctx);
    int changed = 0, verdict = decide(ctx, &to, datagram, &changed);
    if (changed) say6(ctx, &to.address, to.port);
    return verdict;
}

/* What a program is told of its peer, or of a datagram's sender: whom it asked for. */
static __always_inline struct origin *origin_of(struct bpf_sock_addr *ctx, const struct frontend *peer, int datagram) {
    struct origin_key key = {.socket = bpf_get_socket_cookie(ctx),
                             .address = peer->address,
                             .port = peer->port,
                             .protocol = peer->protocol};
    struct origin *found = datagram ? bpf_map_lookup_elem(&said, &key) : 0;
    return found ? found : bpf_map_lookup_elem(&origins, &key);
}

static __always_inline int inward4(struct bpf_sock_addr *ctx, int datagram) {
    struct frontend peer = said4(ctx);
    struct origin *origin = origin_of(ctx, &peer, datagram);
    if (origin) say4(ctx, &origin->address, origin->port);
    return PASS;
}

static __always_inline int inward6(struct bpf_sock_addr *ctx, int datagram) {
    struct frontend peer = said6(ctx);
    struct origin *origin = origin_of(ctx, &peer, datagram);
    if (origin) say6(ctx, &origin->address, origin->port);
    return PASS;
}

SEC("cgroup/connect4") int np_connect4(struct bpf_sock_addr *ctx) { return outward4(ctx, 0); }
SEC("cgroup/connect6") int np_connect6(struct bpf_sock_addr *ctx) { return outward6(ctx, 0); }
SEC("cgroup/sendmsg4") int np_sendmsg4(struct bpf_sock_addr *ctx) { return outward4(ctx, 1); }
SEC("cgroup/sendmsg6") int np_sendmsg6(struct bpf_sock_addr *ctx) { return outward6(ctx, 1); }
SEC("cgroup/recvmsg4") int np_recvmsg4(struct bpf_sock_addr *ctx) { return inward4(ctx, 1); }
SEC("cgroup/recvmsg6") int np_recvmsg6(struct bpf_sock_addr *ctx) { return inward6(ctx, 1); }
SEC("cgroup/getpeername4") int np_getpeername4(struct bpf_sock_addr *ctx) { return inward4(ctx, 0); }
SEC("cgroup/getpeername6") int np_getpeername6(struct bpf_sock_addr *ctx) { return inward6(ctx, 0); }

/* A socket is closed: whom it asked for is of no interest any more. */
SEC("cgroup/sock_release") int np_release(struct bpf_sock *ctx) {
    volatile struct bpf_sock *socket = ctx; /* all is read before any branch: the verifier takes no moved pointer */
    __be32 four = socket->dst_ip4;
    struct address six = {{socket->dst_ip6[0], socket->dst_ip6[1], socket->dst_ip6[2], socket->dst_ip6[3]}};
    struct origin_key key = {.socket = bpf_get_socket_cookie(ctx),
                             .address = six,
                             .port = socket->dst_port,
                             .protocol = socket->protocol};
    if (socket->family == AF_INET) key.address = (struct address){{0, 0, MAPPED, four}};
    if (key.port) bpf_map_delete_elem(&origins, &key);
    return PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
