/* An address as all programs and netplane's processes write it. */
#pragma once
#include <linux/types.h>

#include <bpf/bpf_endian.h>

struct address { /* network byte order; IPv4 is ::ffff:a.b.c.d, as a dual-stack socket says it */
    __be32 word[4];
};

static const __be32 MAPPED = bpf_htonl(0x0000ffff); /* ::ffff:0:0/96 */
