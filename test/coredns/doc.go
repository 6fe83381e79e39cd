// Package coredns runs the cluster DNS of Kubernetes, CoreDNS, as a cluster does: two pods of the sandbox that the
// kubelet makes of kubeadm's manifest, behind the Service kube-dns, which svcproxy serves, with a real API server that
// both read and that holds what the kubelet says of the pods.
package coredns
