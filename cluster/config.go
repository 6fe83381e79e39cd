package cluster

import (
	"fmt"
	"slices"
	"strings"

	"svcproxy/proxier/local"
)

// Config is what a sandbox is made with. It stays as it is while the sandbox is up.
type Config struct {
	Name string `json:"name"`
	// Proxy is the proxy mode (auto, nftables or iptables), empty for a cluster without a proxy.
	Proxy string `json:"proxy,omitempty"`
	// AllowHostPaths are the folders of the host that pods may mount, with all below them.
	AllowHostPaths []string `json:"allowHostPaths,omitempty"`
	// IPv4Only leaves IPv6 out where the kernel has it.
	IPv4Only bool `json:"ipv4Only,omitempty"`
	// IgnoreLimits lets pods run without their limits where the machine can't keep them.
	IgnoreLimits bool `json:"ignoreLimits,omitempty"`
	// LogLevel is the least severe level that the supervisor logs.
	LogLevel string `json:"logLevel,omitempty"`
	// Cgroup is the name of the sandbox's cgroup, which Start chooses.
	Cgroup string `json:"cgroup,omitempty"`
}

// differences lists what is asked for by name and is otherwise in a sandbox that is up already.
func (c Config) differences(running Config, asked []string) error {
	var wrong []string
	for _, field := range []struct {
		flag      string
		want, has string
	}{
		{"proxy", fmt.Sprint(c.Proxy != ""), fmt.Sprint(running.Proxy != "")},
		{"proxy-mode", c.Proxy, running.Proxy},
		{"allow-host-path", strings.Join(c.AllowHostPaths, ","), strings.Join(running.AllowHostPaths, ",")},
		{"ip-family", fmt.Sprint(c.IPv4Only), fmt.Sprint(running.IPv4Only)},
		{"ignore-limits", fmt.Sprint(c.IgnoreLimits), fmt.Sprint(running.IgnoreLimits)},
	} {
		if slices.Contains(asked, field.flag) && field.want != field.has {
			wrong = append(wrong, "--"+field.flag)
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("sandbox %s is up with another %s: take it down first", c.Name, strings.Join(wrong, ", "))
}

// PodRanges are the ranges that hold all pods' addresses, one a family.
func PodRanges() []string {
	var texts []string
	for _, p := range local.DefaultRanges(true).Pods {
		texts = append(texts, p.String())
	}
	return texts
}
