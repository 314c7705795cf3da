/* docker's config.json, as far as it holds credentials: auths, by registry.
 *
 * A key is a host, as podman writes it perhaps followed by a part of the repository's path, or a
 * URL of old ("https://index.docker.io/v1/"). The longest path that fits wins. Helpers (credsStore,
 * credHelpers) are programs, which a daemon does not run.
 *
 * The file is read each time that somebody asks for credentials: it may have changed, and no secret
 * has to be kept. Copies of ours are wiped; those in jansson's buffers cannot be. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oci/auth.h"
#include "oci/base64.h"
#include "oci/json.h"

static const char hub[] = "docker.io";

void cairn_secret_free(char *secret)
{
	if (secret != NULL) explicit_bzero(secret, strlen(secret));
	free(secret);
}

void cairn_credentials_fini(struct cairn_credentials *credentials)
{
	cairn_secret_free(credentials->username);
	cairn_secret_free(credentials->password);
	cairn_secret_free(credentials->identity_token);
	*credentials = (struct cairn_credentials){0};
}

/* ---- keys ------------------------------------------------------------------------------------
 */

/* Is the host that begins key (n bytes) the registry? */
static bool is_host(const char *key, size_t n, const char *registry)
{
	static const char *const hub_hosts[] = {"docker.io", "index.docker.io",
						"registry-1.docker.io"};
	if (n == strlen(registry) && strncasecmp(key, registry, n) == 0) return true;
	for (size_t i = 0; strcmp(registry, hub) == 0 && i < CAIRN_LEN(hub_hosts); i++) {
		if (n == strlen(hub_hosts[i]) && strncasecmp(key, hub_hosts[i], n) == 0) {
			return true;
		}
	}
	return false;
}

/* How well a key of auths fits; 0: not at all. */
static size_t rank_key(const char *key, const char *registry, const char *repository)
{
	const char *sep = strstr(key, "://");
	const char *host = sep != NULL ? sep + 3 : key;
	size_t n = strcspn(host, "/");
	if (!is_host(host, n, registry)) return 0;
	const char *path = host + n;
	if (*path == '/') path++;
	size_t len = strlen(path);
	while (len > 0 && path[len - 1] == '/') len--;
	if (len == 0) return 3;
	if (len == 2 && (strncmp(path, "v1", 2) == 0 || strncmp(path, "v2", 2) == 0)) return 2;
	if (strncmp(path, repository, len) == 0 &&
	    (repository[len] == '\0' || repository[len] == '/')) {
		return 3 + len;
	}
	return sep != NULL ? 1 : 0; /* docker takes a URL's host alone */
}

/* ---- entries ---------------------------------------------------------------------------------
 */

/* Wipe the texts of an entry where they lie, before jansson frees them. */
static void wipe_texts(json_t *object)
{
	const char *key = NULL;
	json_t *value = NULL;
	json_object_foreach(object, key, value)
	{
		if (json_is_object(value)) {
			wipe_texts(value); /* bounded: the text was not deeper than 64 */
		} else if (json_is_string(value)) {
			explicit_bzero((char *)(uintptr_t)json_string_value(value),
				       json_string_length(value));
		}
	}
}

static void wiped_freep(json_t **doc)
{
	wipe_texts(*doc);
	json_decref(*doc);
}

static enum cairn_code text_of(const json_t *entry, const char *name, char **ret,
			       struct cairn_err *err)
{
	const json_t *value = json_object_get(entry, name);
	if (value == NULL || json_is_null(value)) return CAIRN_OK;
	if (!json_is_string(value)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "%s is no string", name);
	}
	if (json_string_length(value) == 0) return CAIRN_OK;
	*ret = strdup(json_string_value(value));
	if (*ret == NULL) abort();
	return CAIRN_OK;
}

/* auth: base64 of "user:password". */
static enum cairn_code split_auth(const char *auth, struct cairn_credentials *ret,
				  struct cairn_err *err)
{
	size_t n = 0;
	char *plain = cairn_base64_decode(auth, &n);
	if (plain == NULL) return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "auth is no base64");
	while (n > 0 && plain[n - 1] == '\0') n--; /* docker pads so */
	char *colon = memchr(plain, ':', n);
	enum cairn_code code = CAIRN_OK;
	if (colon == NULL || memchr(plain, '\0', n) != NULL) {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "auth is not base64 of user:password");
	} else {
		size_t user = (size_t)(colon - plain);
		ret->username = strndup(plain, user);
		ret->password = strndup(colon + 1, n - user - 1);
		if (ret->username == NULL || ret->password == NULL) abort();
	}
	explicit_bzero(plain, n);
	free(plain);
	return code;
}

static enum cairn_code take_entry(const json_t *entry, struct cairn_credentials *ret,
				  struct cairn_err *err)
{
	char *auth = NULL;
	struct cairn_credentials found = {0};
	if (!json_is_object(entry)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "it is no object");
	}
	enum cairn_code code = text_of(entry, "identitytoken", &found.identity_token, err);
	if (code == CAIRN_OK) code = text_of(entry, "auth", &auth, err);
	if (code == CAIRN_OK && auth != NULL) {
		code = split_auth(auth, &found, err);
	} else if (code == CAIRN_OK) {
		code = text_of(entry, "username", &found.username, err);
		if (code == CAIRN_OK) code = text_of(entry, "password", &found.password, err);
	}
	cairn_secret_free(auth);
	if (code != CAIRN_OK) {
		cairn_credentials_fini(&found);
		return code;
	}
	*ret = found;
	return CAIRN_OK;
}

static bool has_helper(const json_t *doc, const char *registry)
{
	const char *key = NULL;
	json_t *value = NULL;
	if (json_string_length(json_object_get(doc, "credsStore")) > 0) return true;
	json_object_foreach(json_object_get(doc, "credHelpers"), key, value)
	{
		if (rank_key(key, registry, "") > 0) return true;
	}
	return false;
}

enum cairn_code cairn_docker_config_find(const char *text, size_t n, const char *registry,
					 const char *repository, struct cairn_credentials *ret,
					 bool *ret_helper, struct cairn_err *err)
{
	cairn_auto(wiped_freep) json_t *doc = NULL;
	enum cairn_code code = cairn_json_load(text, n, true, &doc, err);
	if (code != CAIRN_OK) return code;
	const json_t *best = NULL;
	const char *key = NULL;
	json_t *entry = NULL;
	size_t best_rank = 0;
	if (!json_is_object(doc)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "want a JSON object");
	}
	json_t *auths = json_object_get(doc, "auths");
	if (auths != NULL && !json_is_object(auths) && !json_is_null(auths)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "auths is no object");
	}
	json_object_foreach(auths, key, entry)
	{
		size_t rank = rank_key(key, registry, repository);
		if (rank <= best_rank) continue;
		best_rank = rank;
		best = entry;
	}
	struct cairn_credentials found = {0};
	if (best != NULL) code = take_entry(best, &found, err);
	if (code != CAIRN_OK) return cairn_err_wrap(err, "auths: the entry of %s", registry);
	*ret_helper =
		found.username == NULL && found.identity_token == NULL && has_helper(doc, registry);
	*ret = found;
	return CAIRN_OK;
}

/* ---- the file --------------------------------------------------------------------------------
 */

static enum cairn_code read_file(const char *path, char *buf, size_t cap, size_t *ret,
				 struct cairn_err *err)
{
	struct stat st;
	size_t len = 0;
	ssize_t got = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "open: %s", strerror(errno));
	}
	bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
	while (regular && len < cap && (got = read(fd, buf + len, cap - len)) != 0) {
		if (got < 0 && errno == EINTR) continue;
		if (got < 0) break;
		len += (size_t)got;
	}
	int e = errno;
	close(fd);
	if (!regular) return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "is no regular file");
	if (got < 0) return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "read: %s", strerror(e));
	if (len == cap) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "is longer than %zu bytes",
				     cap - 1);
	}
	*ret = len;
	return CAIRN_OK;
}

enum cairn_code cairn_docker_config_read(const char *path, const char *registry,
					 const char *repository, struct cairn_credentials *ret,
					 bool *ret_helper, struct cairn_err *err)
{
	size_t cap = CAIRN_DOCKER_CONFIG_MAX + 1, len = 0;
	char *text = malloc(cap);
	if (text == NULL) abort();
	enum cairn_code code = read_file(path, text, cap, &len, err);
	if (code == CAIRN_OK) {
		code = cairn_docker_config_find(text, len, registry, repository, ret, ret_helper,
						err);
	}
	explicit_bzero(text, cap);
	free(text);
	return code == CAIRN_OK ? code : cairn_err_wrap(err, "docker_config %s", path);
}
