package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
)

func newCleanup() *cobra.Command {
	var netns string
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what svcproxy programmed",
		Long: `Cleanup removes what svcproxy programmed in either mode and leaves everything else, kubelet's chains
too. Stop the daemon first: it would put all back.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var errs []error
			for _, f := range model.Families {
				if err := nftables.Cleanup(c.Context(), nftables.Options{Family: f, NetNS: netns}); err != nil {
					errs = append(errs, fmt.Errorf("cleaning nftables, %v: %w", f, err))
				}
				err := iptables.Cleanup(c.Context(), iptables.Options{Family: f, NetNS: netns})
				if err != nil && !errors.Is(err, iptables.ErrUnavailable) {
					errs = append(errs, fmt.Errorf("cleaning iptables, %v: %w", f, err))
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().StringVar(&netns, "netns", "", "path of the network namespace to clean (default: that of the process)")
	return c
}
