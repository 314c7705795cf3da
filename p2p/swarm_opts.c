/* What the swarm is told at its start: addresses, certificates, which directory. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "p2p/address.h"
#include "p2p/etcd.h"
#include "p2p/static.h"
#include "p2p/swarm.h"
#include "p2p/tls.h"

static bool is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (strcmp(host, "localhost") == 0) return true;
	if (inet_pton(AF_INET, host, &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool is_any(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (inet_pton(AF_INET, host, &v4) == 1) return v4.s_addr == 0;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

enum cairn_code cairn_swarm_load_tls(const struct cairn_swarm_opts *opts,
				     struct cairn_tls_files **ret, struct cairn_err *err)
{
	struct cairn_address listen, advertise;
	enum cairn_code rc = cairn_address_parse(opts->listen, true, &listen, err);
	if (rc != CAIRN_OK) return cairn_err_wrap(err, "p2p.listen");
	if (opts->tls.cert != NULL && opts->tls.cert[0] != '\0') {
		return cairn_tls_files_load(opts->tls.ca, opts->tls.cert, opts->tls.key, ret, err);
	}
	bool loopback = is_loopback(listen.host);
	if (loopback && opts->advertise != NULL && opts->advertise[0] != '\0') {
		rc = cairn_address_parse(opts->advertise, true, &advertise, err);
		if (rc != CAIRN_OK) return cairn_err_wrap(err, "p2p.advertise");
		loopback = is_loopback(advertise.host);
	}
	if (!loopback) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "p2p.listen %s: without p2p.tls only a loopback address is "
				     "allowed, for whoever reaches the port could read every blob",
				     opts->listen);
	}
	cairn_log(CAIRN_LOG_WARN, "peers_without_tls", CAIRN_STR("listen", opts->listen));
	*ret = NULL;
	return CAIRN_OK;
}

/* An address of this host that others may reach. */
static bool host_address(int family, char ret[static INET6_ADDRSTRLEN])
{
	struct ifaddrs *all;
	bool found = false;
	if (getifaddrs(&all) != 0) return false;
	for (const struct ifaddrs *i = all; i != NULL && !found; i = i->ifa_next) {
		if (i->ifa_addr == NULL || i->ifa_addr->sa_family != family) continue;
		if ((i->ifa_flags & IFF_LOOPBACK) != 0 || (i->ifa_flags & IFF_UP) == 0) continue;
		const void *addr =
			family == AF_INET
				? (const void *)&((struct sockaddr_in *)i->ifa_addr)->sin_addr
				: (const void *)&((struct sockaddr_in6 *)i->ifa_addr)->sin6_addr;
		if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)addr)) {
			continue;
		}
		found = inet_ntop(family, addr, ret, INET6_ADDRSTRLEN) != NULL;
	}
	freeifaddrs(all);
	return found;
}

/* "host:port" for peers; a port 0 is the one that was taken. */
static enum cairn_code own_address(const struct cairn_swarm_opts *opts, int port,
				   char ret[static CAIRN_ADDRESS_MAX], struct cairn_err *err)
{
	struct cairn_address address;
	char own[INET6_ADDRSTRLEN];
	bool given = opts->advertise != NULL && opts->advertise[0] != '\0';
	enum cairn_code rc =
		cairn_address_parse(given ? opts->advertise : opts->listen, true, &address, err);
	if (rc != CAIRN_OK) return cairn_err_wrap(err, "p2p.%s", given ? "advertise" : "listen");
	const char *host = address.host;
	if (is_any(host)) {
		/* A socket for any IPv6 address takes IPv4, too. */
		bool v6 = strchr(host, ':') != NULL;
		if (!host_address(AF_INET, own) && !(v6 && host_address(AF_INET6, own))) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "p2p.listen %s: this host has no address to advertise "
					     "yet; set p2p.advertise",
					     opts->listen);
		}
		host = own;
	}
	char number[8];
	snprintf(number, sizeof(number), "%d", port);
	bool v6 = strchr(host, ':') != NULL;
	int n = snprintf(ret, CAIRN_ADDRESS_MAX, "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "",
			 strcmp(address.port, "0") == 0 ? number : address.port);
	if (n >= CAIRN_ADDRESS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "p2p.advertise is too long");
	}
	return CAIRN_OK;
}

enum cairn_code cairn_swarm_name(const struct cairn_swarm_opts *opts, int port,
				 struct cairn_hello *ret, struct cairn_err *err)
{
	snprintf(ret->name, sizeof(ret->name), "%s", opts->name != NULL ? opts->name : "");
	if (getrandom(ret->instance, sizeof(ret->instance), 0) != sizeof(ret->instance)) {
		return cairn_err_sys(err, errno, "getrandom");
	}
	return own_address(opts, port, ret->address, err);
}

/* ---- the directory ---------------------------------------------------------------------- */

static enum cairn_code make_directory(void *arg, struct cairn_swarm *swarm,
				      struct cairn_directory **ret, struct cairn_err *err)
{
	const struct cairn_swarm_opts *opts = arg;
	if (opts->etcd) {
		const struct cairn_etcd_opts etcd = {
			.rpc = opts->rpc,
			.address = swarm->hello.address,
			.endpoints = opts->etcd_opts.endpoints,
			.n_endpoints = opts->etcd_opts.n_endpoints,
			.prefix = opts->etcd_opts.prefix,
			.ca = opts->etcd_opts.ca,
			.cert = opts->etcd_opts.cert,
			.key = opts->etcd_opts.key,
		};
		return cairn_etcd_new(&etcd, ret, err);
	}
	const struct cairn_static_opts peers = {
		.tls = swarm->tls,
		.own = &swarm->hello,
		.peers = opts->peers,
		.n_peers = opts->n_peers,
	};
	swarm->is_static = true;
	return cairn_static_new(&peers, ret, err);
}

enum cairn_code cairn_swarm_start(const struct cairn_swarm_opts *opts, struct cairn_swarm **ret,
				  struct cairn_err *err)
{
	return cairn_swarm_start_with(opts, make_directory, (void *)(uintptr_t)opts, ret, err);
}

enum cairn_code cairn_swarm_set_peers(struct cairn_swarm *swarm, const char *const *peers,
				      size_t n_peers, struct cairn_err *err)
{
	if (swarm == NULL || !swarm->is_static) return CAIRN_OK;
	return cairn_static_set_peers(swarm->dir, peers, n_peers, err);
}
