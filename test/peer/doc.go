// Package peer holds svcproxy to what the real kube-proxy does. Its tests run kube-proxy and svcproxy, each in
// both modes, on nodes that are alike in everything and watch one real API server, send the same packets in each
// of the worlds around these nodes, and compare what became of them. Differences that are meant are in a list,
// with their reasons; docs/differences.md tells users of the same ones.
package peer
