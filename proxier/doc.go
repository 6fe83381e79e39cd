// Package proxier is the controller: it takes Services and EndpointSlices from an API server or from
// files, keeps what changed, plans it and has a backend program it, again and again.
package proxier
