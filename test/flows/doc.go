// Package flows tests connection tracking with real kernels: what is read of the table and deleted from it, and
// that UDP clients reach the endpoints that there are, from the port that they always had. It also fills tables
// for other tests.
package flows
