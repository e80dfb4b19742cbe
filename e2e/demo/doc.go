// Package demo shows what skfs does, on two hosts and a client made of
// namespaces: a source tree is copied into a mirrored directory while a database
// there is being written to, the primary host loses its power, the second takes
// over, the first comes back. At the end nothing acknowledged may be missing and
// both hosts must have the same on disk; otherwise [Run] fails.
package demo
