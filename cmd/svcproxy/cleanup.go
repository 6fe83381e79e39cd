package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

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
			if err := checkNetns(netns); err != nil {
				return err
			}
			var errs []error
			for _, f := range model.Families {
				err := cleanFamily(c.Context(), f, netns, all)
				if errors.Is(err, iptables.ErrUnavailable) {
					fmt.Fprintf(c.ErrOrStderr(), "warning: rules of iptables, if any, stay: %v\n", err)
					continue
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also remove what kube-proxy programmed")
	c.Flags().StringVar(&netns, "netns", "", "path of the network namespace to clean (default: that of the process)")
	return c
}

// cleanFamily cleans both backends' places. The error is iptables.ErrUnavailable if that alone is wrong.
func cleanFamily(ctx context.Context, f model.Family, netns string, all bool) error {
	nft, ipt := nftables.Options{Family: f, NetNS: netns}, iptables.Options{Family: f, NetNS: netns}
	errs := []error{nftables.Cleanup(ctx, nft)}
	clean := iptables.Cleanup
	if all {
		errs = append(errs, nftables.CleanupKubeProxy(ctx, nft))
		clean = iptables.CleanupAll
	}
	unavailable := clean(ctx, ipt)
	if !errors.Is(unavailable, iptables.ErrUnavailable) {
		errs, unavailable = append(errs, unavailable), nil
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cleaning %v: %w", f, err)
	}
	return unavailable
}

// cleanOther removes what svcproxy programmed when it ran in the other mode: nobody keeps it up to date, and
// the kernel might ask it first.
func cleanOther(ctx context.Context, mode string, f model.Family, netns string, log *zap.Logger) {
	var err error
	if mode == "iptables" {
		err = nftables.Cleanup(ctx, nftables.Options{Family: f, NetNS: netns})
	} else {
		err = iptables.Cleanup(ctx, iptables.Options{Family: f, NetNS: netns})
	}
	if err != nil && !errors.Is(err, iptables.ErrUnavailable) && ctx.Err() == nil {
		log.Warn("what svcproxy programmed in its other mode, if anything, stays: see svcproxy cleanup", zap.Stringer("family", f), zap.Error(err))
	}
}
