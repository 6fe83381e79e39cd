package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// ServiceName names a Service: its namespace and its name.
type ServiceName struct {
	Namespace string
	Name      string
}

// String returns "namespace/name".
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then by name.
func (n ServiceName) Compare(o ServiceName) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// ServicePortName names one port of one Service. Port is empty for a port without a name.
type ServicePortName struct {
	Service  ServiceName
	Port     string
	Protocol Protocol
}

// String returns "namespace/name:port", or "namespace/name" where the port has no name: the form that
// kube-proxy writes into rule comments and hashes into chain names.
func (n ServicePortName) String() string {
	if n.Port == "" {
		return n.Service.String()
	}
	return n.Service.String() + ":" + n.Port
}

// Compare orders names by Service, then by port, then by protocol.
func (n ServicePortName) Compare(o ServicePortName) int {
	return cmp.Or(n.Service.Compare(o.Service), strings.Compare(n.Port, o.Port), cmp.Compare(n.Protocol, o.Protocol))
}

// Prefixes of the chains that kube-proxy makes for a Service port and its endpoints.
const (
	ServiceChainPrefix  = "KUBE-SVC-"
	EndpointChainPrefix = "KUBE-SEP-"
)

// ServiceChain returns the name of the chain that balances over the endpoints of a Service port, as
// kube-proxy's iptables mode names it. The nftables backend has no such chain and shows the name as an
// identifier.
func ServiceChain(n ServicePortName) string {
	return ServiceChainPrefix + ChainHash(n.String()+n.protocol())
}

// EndpointChain returns the name of the chain that translates to one endpoint, given as "ip:port" or
// "[ip]:port", as kube-proxy's iptables mode names it.
func EndpointChain(n ServicePortName, endpoint string) string {
	return EndpointChainPrefix + ChainHash(n.String()+n.protocol()+endpoint)
}

func (n ServicePortName) protocol() string { return strings.ToLower(n.Protocol.String()) }

// ChainHash returns the first 16 characters of base32(sha256(s)), the suffix that kube-proxy gives its
// chains (portProtoHash in k8s.io/kubernetes/pkg/proxy/iptables).
func ChainHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
