// Package sandbox makes a Kubernetes node, its pods and hosts outside the cluster
// from Linux primitives: network namespaces, veth pairs and routes, laid out as a
// node of kind has them. It needs no container runtime and no root: Isolate gives an
// unprivileged user a world of his own to build it in.
//
// Everything made here is anonymous and belongs to the program: it goes with Close,
// and also when the program is killed.
package sandbox
