package world

import (
	"fmt"
	"net/netip"

	"svcproxy/model"
)

// Names of the nodes, for Node objects and endpoints.
const (
	NodeName      = "node-a"
	OtherNodeName = "node-b"
)

const (
	canaryPort = 9
	firstPod   = 11
	firstHost  = 101
	lastPod    = 250
)

// PodAddr returns the address of the pod i, counted from 0, of this node.
func PodAddr(f model.Family, i int) netip.Addr {
	return numbered(f, "10.244.0.", "fd00:10:244::", firstPod+i)
}

// RemoteAddr returns the address of the pod i, counted from 0, of the other node.
func RemoteAddr(f model.Family, i int) netip.Addr {
	return numbered(f, "10.244.1.", "fd00:10:244:1::", firstPod+i)
}

// HostAddr returns the address of the host i outside, counted from 0.
func HostAddr(f model.Family, i int) netip.Addr {
	return numbered(f, "172.18.0.", "fc00:f853:ccd:e793::", firstHost+i)
}

// NodeAddr returns the node's address towards outside.
func NodeAddr(f model.Family) netip.Addr { return nodeAddr(f, 2) }

func nodeAddr(f model.Family, n int) netip.Addr {
	return numbered(f, "172.18.0.", "fc00:f853:ccd:e793::", n)
}

// numbered makes an address whose last digits read alike in both families.
func numbered(f model.Family, v4, v6 string, n int) netip.Addr {
	if f == model.IPv4 {
		return netip.MustParseAddr(fmt.Sprint(v4, n))
	}
	return netip.MustParseAddr(fmt.Sprint(v6, n))
}
