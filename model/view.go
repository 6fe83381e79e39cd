package model

import "net/netip"

// View is what a data plane holds, read back from it, in the words that both backends share. Its JSON
// form is the stable output of `svcproxy dump -o json`.
type View struct {
	Backend  string        `json:"backend"`
	Services []ServiceView `json:"services"`
}

// ServiceView is one Service port as it is programmed.
type ServiceView struct {
	// Name is "namespace/name:port", or whatever identifies the Service where its name is not kept.
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	// Chain is the chain that balances; the nftables backend, which has none, gives the same name.
	Chain     string         `json:"chain"`
	Frontends []FrontendView `json:"frontends"`
	Endpoints []EndpointView `json:"endpoints"`
}

// FrontendView is an address and port at which a Service port answers.
type FrontendView struct {
	Type    string     `json:"type"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// Action is empty where connections are balanced, else "reject" or "drop".
	Action string `json:"action,omitempty"`
}

// EndpointView is an endpoint that new connections may go to.
type EndpointView struct {
	Chain   string     `json:"chain"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// Probability is the endpoint's final share of new connections, from 0 to 1.
	Probability float64 `json:"probability"`
}
