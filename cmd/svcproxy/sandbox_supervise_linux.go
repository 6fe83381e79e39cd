package main

import (
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"svcproxy/cluster"
	"svcproxy/conntrack"
	"svcproxy/proxier"
)

// newSandboxSupervise is how a sandbox's supervisor is started, by other commands alone.
func newSandboxSupervise() *cobra.Command {
	return &cobra.Command{
		Use:    "supervise FOLDER",
		Hidden: true,
		Args:   exactly(1, "the sandbox's folder"),
		RunE: func(c *cobra.Command, args []string) error {
			code, err := cluster.Supervise(c.Context(), args[0], cluster.SuperviseOptions{
				Version: versionString(),
				Log: func(config cluster.Config) (*zap.Logger, error) {
					return (&logFlags{level: config.LogLevel, format: "text"}).logger()
				},
				Proxy: sandboxProxy,
			})
			if err != nil {
				return err
			}
			os.Exit(code)
			return nil
		},
	}
}

// sandboxProxy is 'svcproxy run' for the node of a sandbox.
func sandboxProxy(mode string, source proxier.Source, netns, node string, log *zap.Logger) (cluster.Proxy, string, error) {
	b, err := openBackends(mode, netns, log)
	if err != nil {
		return nil, "", err
	}
	settings, err := (&settingFlags{
		detectLocalMode: string(proxier.ClusterCIDR), clusterCIDRs: cluster.PodRanges(), localhostNodePorts: true, masqueradeBit: 14,
	}).settings(b.name)
	if err != nil {
		b.close()
		return nil, "", err
	}
	p, err := proxier.New(proxier.Options{
		Source: source, Backends: b.of, BackendName: b.name, Settings: settings, NodeName: node, NetNS: netns,
		Log: log, Conntrack: conntrack.NewNetlink(netns),
	})
	if err != nil {
		b.close()
		return nil, "", err
	}
	return p, b.name, nil
}
