// Package model holds the values that everything else computes with: Services, EndpointSlices and the
// node, as svcproxy needs them. The values carry no Kubernetes types, use netip for addresses, and are
// treated as immutable once they are built, so they may be shared between goroutines.
package model
