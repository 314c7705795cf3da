#include "config/check.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/value.h"

#define HOST_MAX 300
#define ADMINS_MAX 256
#define ADMIN_BYTES_MAX 255 /* p2p/ looks at no longer names of certificates */
#define ENDPOINTS_MAX 16    /* of etcd: p2p/ takes no more */

/* ---- garbage collection -----------------------------------------------------------------------*/

static enum cairn_code check_marks(const char *name, const struct cairn_config *config,
				   bool min_free_set, struct cairn_err *err)
{
	const struct cairn_config_amount *high = &config->gc.high_watermark;
	const struct cairn_config_amount *low = &config->gc.low_watermark;
	const struct cairn_config_amount *min_free = &config->gc.min_free;
	if (high->is_percent != low->is_percent) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: gc.high_watermark is %s and gc.low_watermark is %s; "
				     "allowed: both shares such as 80%%, or both sizes such as "
				     "200GiB (set both)",
				     name, high->is_percent ? "a share" : "a size",
				     low->is_percent ? "a share" : "a size");
	}
	if (low->value > high->value) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: gc.low_watermark is above gc.high_watermark; allowed: "
				     "at most as much",
				     name);
	}
	/* The default is no wish of anybody's. */
	if (min_free_set && high->is_percent && min_free->is_percent &&
	    min_free->value > 100 - high->value) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: gc.min_free is %d%%, but with gc.high_watermark at "
				     "%d%% that is never kept free; allowed: at most %d%%",
				     name, (int)min_free->value, (int)high->value,
				     (int)(100 - high->value));
	}
	return CAIRN_OK;
}

/* ---- other nodes ------------------------------------------------------------------------------*/

/* text is a host:port, as the table of keys has checked. Returns the port. */
static unsigned split(const char *text, char host[static HOST_MAX + 1])
{
	const char *colon = strrchr(text, ':');
	size_t n = (size_t)(colon - text);
	bool v6 = n >= 2 && text[0] == '[';
	if (n > HOST_MAX) n = HOST_MAX;
	snprintf(host, HOST_MAX + 1, "%.*s", (int)(v6 ? n - 2 : n), v6 ? text + 1 : text);
	return (unsigned)strtoul(colon + 1, NULL, 10);
}

bool cairn_config_is_loopback(const char *address)
{
	char host[HOST_MAX + 1];
	struct in_addr v4;
	struct in6_addr v6;
	split(address, host);
	if (strcasecmp(host, "localhost") == 0) return true;
	if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static enum cairn_code lacks(const char *name, const char *what, const char *why,
			     struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s: %s is not set; %s", name, what, why);
}

static enum cairn_code check_tls(const char *name, const struct cairn_config *config,
				 struct cairn_err *err)
{
	static const char all[] = "allowed: p2p.tls.ca, p2p.tls.cert and p2p.tls.key, or none";
	const char *ca = config->p2p.tls.ca, *cert = config->p2p.tls.cert,
		   *key = config->p2p.tls.key;
	bool none = ca[0] == '\0' && cert[0] == '\0' && key[0] == '\0';
	if (!none && ca[0] == '\0') return lacks(name, "p2p.tls.ca", all, err);
	if (!none && cert[0] == '\0') return lacks(name, "p2p.tls.cert", all, err);
	if (!none && key[0] == '\0') return lacks(name, "p2p.tls.key", all, err);
	if (none && config->p2p.listen[0] != '\0' &&
	    !cairn_config_is_loopback(config->p2p.listen)) {
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"%s: p2p.listen is \"%.100s\", and p2p.tls is not set; allowed "
			"without p2p.tls: addresses of this host alone, such as "
			"127.0.0.1:7400",
			name, config->p2p.listen);
	}
	return CAIRN_OK;
}

/* Others are to dial it. */
static bool can_be_dialled(const char *address)
{
	char host[HOST_MAX + 1];
	return strlen(address) < HOST_MAX && cairn_value_is_host_port(address) &&
	       split(address, host) > 0 && host[0] != '\0';
}

static enum cairn_code check_dialled(const char *name, const char *key, const char *address,
				     struct cairn_err *err)
{
	if (can_be_dialled(address)) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "%s: %s is \"%.100s\"; allowed: host:port, with a port of 1 to 65535",
			     name, key, address);
}

/* "https://host:port", "http://host:port", or "host:port", which is the latter; a slash may follow.
 */
static bool is_endpoint(const char *text, bool *ret_tls)
{
	char address[HOST_MAX];
	*ret_tls = strncmp(text, "https://", 8) == 0;
	if (*ret_tls || strncmp(text, "http://", 7) == 0) text += *ret_tls ? 8 : 7;
	size_t n = strlen(text);
	if (n > 0 && text[n - 1] == '/') n--;
	if (n >= sizeof(address) || memchr(text, '@', n) != NULL) return false;
	snprintf(address, sizeof(address), "%.*s", (int)n, text);
	return can_be_dialled(address);
}

/* The text is not shown: somebody may have written a password into it. */
static enum cairn_code check_endpoint(const char *name, const struct cairn_config *config, size_t i,
				      struct cairn_err *err)
{
	bool tls;
	if (!is_endpoint(config->p2p.etcd.endpoints.items[i], &tls)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: entry %zu of p2p.etcd.endpoints; allowed: "
				     "http://host:port or https://host:port, without a user",
				     name, i + 1);
	}
	if (!tls && (config->p2p.etcd.ca[0] != '\0' || config->p2p.etcd.cert[0] != '\0')) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: entry %zu of p2p.etcd.endpoints is plain http, but "
				     "p2p.etcd.ca or p2p.etcd.cert is set; allowed with them: "
				     "https://host:port",
				     name, i + 1);
	}
	return CAIRN_OK;
}

static enum cairn_code check_etcd(const char *name, const struct cairn_config *config,
				  struct cairn_err *err)
{
	const char *cert = config->p2p.etcd.cert, *key = config->p2p.etcd.key;
	size_t n = config->p2p.etcd.endpoints.n;
	enum cairn_code rc = CAIRN_OK;
	for (size_t i = 0; rc == CAIRN_OK && i < n; i++) rc = check_endpoint(name, config, i, err);
	if (rc) return rc;
	if (config->p2p.directory_etcd && n == 0) {
		return lacks(name, "p2p.etcd.endpoints", "p2p.directory etcd needs it", err);
	}
	if (n > ENDPOINTS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: p2p.etcd.endpoints has %zu entries; allowed: at most %d",
				     name, n, ENDPOINTS_MAX);
	}
	if ((cert[0] == '\0') != (key[0] == '\0')) {
		return lacks(name, cert[0] == '\0' ? "p2p.etcd.cert" : "p2p.etcd.key",
			     "allowed: both of p2p.etcd.cert and p2p.etcd.key, or none", err);
	}
	return CAIRN_OK;
}

/* Whom to let in is to be said. */
static enum cairn_code check_listen(const char *name, const struct cairn_config *config,
				    struct cairn_err *err)
{
	if (config->p2p.listen[0] != ':') return CAIRN_OK;
	return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
			     "%s: p2p.listen is \"%.100s\"; allowed: host:port, such as "
			     "0.0.0.0:7400 for all IPv4 addresses of this host, [::]:7400 for "
			     "IPv6 as well",
			     name, config->p2p.listen);
}

static enum cairn_code check_admins(const char *name, const struct cairn_config *config,
				    struct cairn_err *err)
{
	const struct cairn_config_list *admins = &config->p2p.admins;
	if (admins->n > ADMINS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%s: p2p.admins has %zu entries; allowed: at most %d", name,
				     admins->n, ADMINS_MAX);
	}
	for (size_t i = 0; i < admins->n; i++) {
		const char *entry = admins->items[i];
		size_t n = strlen(entry);
		bool well = n > 0 && n <= ADMIN_BYTES_MAX && entry[0] != ' ' && entry[n - 1] != ' ';
		for (const char *c = entry; *c != '\0'; c++) {
			well = well && (unsigned char)*c >= ' ' && *c != 0x7f;
		}
		if (well) continue;
		return cairn_err_set(
			err, CAIRN_INVALID_ARGUMENT,
			"%s: entry %zu of p2p.admins; allowed: the whole name that is in "
			"a certificate, 1 to %d bytes",
			name, i + 1, ADMIN_BYTES_MAX);
	}
	if (admins->n > 0 && config->p2p.tls.cert[0] == '\0') {
		return lacks(name, "p2p.tls", "p2p.admins names certificates, so it needs p2p.tls",
			     err);
	}
	return CAIRN_OK;
}

static enum cairn_code check_p2p(const char *name, const struct cairn_config *config,
				 struct cairn_err *err)
{
	enum cairn_code rc = check_listen(name, config, err);
	if (rc == CAIRN_OK) rc = check_tls(name, config, err);
	if (rc == CAIRN_OK) rc = check_admins(name, config, err);
	if (rc == CAIRN_OK && config->p2p.advertise[0] != '\0') {
		rc = check_dialled(name, "p2p.advertise", config->p2p.advertise, err);
	}
	for (size_t i = 0; rc == CAIRN_OK && i < config->p2p.peers.n; i++) {
		rc = check_dialled(name, "an entry of p2p.peers", config->p2p.peers.items[i], err);
	}
	return rc ? rc : check_etcd(name, config, err);
}

enum cairn_code cairn_config_check(const char *name, const struct cairn_config *config,
				   bool min_free_set, struct cairn_err *err)
{
	enum cairn_code rc = check_marks(name, config, min_free_set, err);
	return rc ? rc : check_p2p(name, config, err);
}
