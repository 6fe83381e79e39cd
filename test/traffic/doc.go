// Package traffic tests both backends with real packets: pods, the node and hosts outside connect to
// Services over TCP, UDP and SCTP, in both families, while a backend programs the node's kernel. Whatever
// was programmed, these tests look only at who answered, whom the answerer saw, and how the others were
// refused.
package traffic
