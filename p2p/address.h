/* Addresses of peers as people write them: host:port, a host being a name, an IPv4 address or an
 * IPv6 address in brackets. Threads: immutable. */
#ifndef CAIRN_P2P_ADDRESS_H
#define CAIRN_P2P_ADDRESS_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/own.h"
#include "p2p/directory.h"

struct cairn_address {
	char host[256]; /* without brackets */
	char port[6];
};

/* port_zero: port 0 is fine, too. Errors: INVALID_ARGUMENT, with the text shown. */
CAIRN_CHECKED enum cairn_code cairn_address_parse(const char *text, bool port_zero,
						  struct cairn_address *ret, struct cairn_err *err);

/* The socket addresses behind it; free them with freeaddrinfo. The system's resolver knows no
 * deadline of ours, so names are looked up on a thread of their own, which is left to itself when
 * the deadline (end_ns, boot time) has passed or stop_fd is readable. An address in numbers needs
 * no thread. Errors: UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED. */
CAIRN_CHECKED enum cairn_code cairn_address_resolve(const struct cairn_address *address,
						    int stop_fd, int64_t end_ns,
						    struct addrinfo **ret, struct cairn_err *err);

/* "10.0.0.1:7000", "[::1]:7000"; "?" if it is neither. */
void cairn_address_format(const struct sockaddr *addr, char ret[static CAIRN_ADDRESS_MAX]);

#endif
