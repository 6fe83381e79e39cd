// Package local plays the control plane of a cluster that has none: it reads manifests as an API server would
// take them, gives Services and pods their addresses, makes EndpointSlices of selectors and readiness, and
// gives the result to the proxy as any other source does.
//
// It computes only. Nothing in it touches the machine: package kubelet runs the pods.
//
// What it asks of whoever runs the pods:
//
//   - The pods that Cluster.Apply returns have their addresses in status.podIPs, status.podIP being the
//     first. They are to be used as they are, and to be kept in the status that is given back by
//     Cluster.SetPod.
//   - spec.automountServiceAccountToken other than false means ca.crt, namespace and token in
//     ServiceAccountPath of every container that mounts nothing there itself. The volume that a
//     cluster's admission adds for this (kube-api-access-…) is taken and dropped when a manifest is read.
//   - The limit ResourcePIDs of a container limits its processes and threads.
//   - Every field that ValidatePod and Load let through is honoured, or has no meaning on one node without a
//     scheduler (priority, tolerations, schedulerName, …).
package local
