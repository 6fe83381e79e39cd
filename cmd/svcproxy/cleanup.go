package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"svcproxy/iptables"
	"svcproxy/model"
	"svcproxy/nftables"
)

func newCleanup() *cobra.Command {
	var (
		netns string
		all   bool
	)
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what svcproxy programmed",
		Long: `Cleanup removes what svcproxy programmed in either mode and leaves everything else, kubelet's chains
too. With --all it also removes what kube-proxy programmed. Stop the daemon first: it would put all back.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var errs []error
			for _, f := range model.Families {
				errs = append(errs, cleanFamily(c.Context(), f, netns, all))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also remove what kube-proxy programmed")
	c.Flags().StringVar(&netns, "netns", "", "path of the network namespace to clean (default: that of the process)")
	return c
}

// cleanFamily cleans both backends' places. Where iptables is not available, there is nothing of it either.
func cleanFamily(ctx context.Context, f model.Family, netns string, all bool) error {
	nft, ipt := nftables.Options{Family: f, NetNS: netns}, iptables.Options{Family: f, NetNS: netns}
	errs := []error{nftables.Cleanup(ctx, nft)}
	clean := iptables.Cleanup
	if all {
		errs = append(errs, nftables.CleanupKubeProxy(ctx, nft))
		clean = iptables.CleanupAll
	}
	if err := clean(ctx, ipt); !errors.Is(err, iptables.ErrUnavailable) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cleaning %v: %w", f, err)
	}
	return nil
}
