// Package dns answers for a cluster's Services as the Kubernetes DNS-based service discovery
// specification 1.1.0 says. A Zone is a pure table made from Services; a Server answers from the Zone
// it was given last.
package dns
