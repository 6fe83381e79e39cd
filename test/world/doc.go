// Package world makes a small cluster of network namespaces and asks, with real packets, what becomes of
// connections in it. A World has
//
//   - the node, whose kernel a test programs, with an address to the outside and one towards its pods;
//   - pods on that node (10.244.0.0/24, fd00:10:244::/64);
//   - pods of another node (10.244.1.0/24, fd00:10:244:1::/64), which reach everything through the node;
//   - hosts outside the cluster, for which the node is the router: to pods, to Service ranges, to any address
//     that a load balancer or somebody else leads to the node.
//
// Every pod and host serves ports over TCP, UDP and SCTP, and answers with its own address and the client's as
// it sees it. Every Place, the node too, can ask, and learns one of four things: answered, refused, silent,
// unreachable.
//
// Worlds are cheap (a few tens of milliseconds), need no root beyond what nstest gives, and know nothing of
// each other, so tests may run many at once.
package world
