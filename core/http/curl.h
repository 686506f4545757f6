// SPDX-License-Identifier: Apache-2.0
/*
 * core/http/curl.h: libcurl, loaded when the first request is made.
 *
 * It brings some thirty other libraries (TLS, LDAP, Kerberos, SSH): 6 of the 10 ms in which fcvm starts, measured. Most
 * of fcvm's commands, that of a clone among them, make no request. Types are those of curl.h; only functions are looked
 * up.
 */
#ifndef FCVM_HTTP_CURL_H
#define FCVM_HTTP_CURL_H

#include <curl/curl.h>

#include "base/error.h"

#define FCH_CURL_FUNCTIONS(F)                                                                                          \
	F(global_init)                                                                                                 \
	F(easy_init)                                                                                                   \
	F(easy_setopt)                                                                                                 \
	F(easy_getinfo)                                                                                                \
	F(easy_strerror)                                                                                               \
	F(easy_cleanup)                                                                                                \
	F(slist_append)                                                                                                \
	F(slist_free_all)                                                                                              \
	F(multi_init)                                                                                                  \
	F(multi_setopt)                                                                                                \
	F(multi_strerror)                                                                                              \
	F(multi_cleanup)                                                                                               \
	F(multi_add_handle)                                                                                            \
	F(multi_remove_handle)                                                                                         \
	F(multi_info_read)                                                                                             \
	F(multi_socket_action)

struct fch_curl {
#define F(name) __typeof__(curl_##name) *name;
	FCH_CURL_FUNCTIONS(F)
#undef F
};

/* Set once fch_curl_load has returned 0. */
extern struct fch_curl fch_curl;

/* Loads and prepares libcurl, once a process, however often it is called. Any thread. ENOENT: there is none; ENOMEM, or
 * EIO where it refuses. */
int fch_curl_load(struct fc_error *error);

#endif
