package nftables

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// Session affinity remembers for each client and list of endpoints the endpoint in the map affinity, whose
// keys and values are of 32 bits beside the client's address: a packet carries a value from one lookup to
// the next in its mark. So lists and endpoints have ids. They are hashes of names that never change, so
// that what was learned holds after a restart and an endpoint that left is not taken for a new one.

// listID returns the id of a list of a Service port, in the kernel's bytes. Should two lists share one, their
// common clients are remembered for the list they used last.
func listID(n model.ServicePortName, local bool) string {
	if local {
		return hashID("local list", n, "", 0)
	}
	return hashID("list", n, "", 0)
}

// endpointIDs returns an id for each endpoint of a Service port, each another.
func endpointIDs(p *plan.ServicePort) map[netip.AddrPort]string {
	endpoints := slices.Concat(p.Endpoints, p.Local)
	slices.SortFunc(endpoints, plan.Endpoint.Compare)
	out := make(map[netip.AddrPort]string, len(endpoints))
	taken := make(map[string]bool, len(endpoints))
	for _, e := range endpoints {
		at := e.AddrPort()
		for salt := 0; out[at] == ""; salt++ {
			if id := hashID("endpoint", p.Name, at.String(), salt); !taken[id] {
				out[at], taken[id] = id, true
			}
		}
	}
	return out
}

func hashID(kind string, n model.ServicePortName, endpoint string, salt int) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{kind, n.Service.Namespace, n.Service.Name, n.Port, n.Protocol.String(),
		endpoint, strconv.Itoa(salt)}, "\x00")))
	return string(binary.NativeEndian.AppendUint32(nil, binary.BigEndian.Uint32(sum[:])))
}
