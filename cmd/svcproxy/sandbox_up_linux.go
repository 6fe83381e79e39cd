package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"svcproxy/cluster"
)

// upFlags are the flags of up.
type upFlags struct {
	*sandboxFlags
	config    cluster.Config
	manifests []string
	family    string
	proxy     bool
	timeout   time.Duration
}

func newSandboxUp(f *sandboxFlags) *cobra.Command {
	u := &upFlags{sandboxFlags: f}
	c := &cobra.Command{
		Use:   "up [-f PATH]…",
		Short: "Start the sandbox if it is not up, and apply manifests",
		Long: `Up makes the node, applies the manifests, Pods, Services, ConfigMaps, Secrets and EndpointSlices, and waits until the
pods are ready. It may be given again: what is there already stays as it is.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return u.run(c) },
	}
	flags := c.Flags()
	flags.StringArrayVarP(&u.manifests, "filename", "f", nil, "file or folder of manifests, - for standard input; may be given more than once")
	flags.BoolVar(&u.proxy, "proxy", false, "run svcproxy on the node, so that Services lead to pods")
	flags.StringVar(&u.config.Proxy, "proxy-mode", "auto", "mode of --proxy, which it implies: auto, nftables or iptables")
	flags.StringSliceVar(&u.config.AllowHostPaths, "allow-host-path", nil, "folder of this machine that pods may mount, with all below it")
	flags.StringVar(&u.family, "ip-family", "dual", "addresses of the cluster: dual (IPv6 too where the kernel has it) or ipv4")
	flags.BoolVar(&u.config.IgnoreLimits, "ignore-limits", false, "run pods without limits that can't be kept here, such as an ordinary user's")
	flags.StringVar(&u.config.LogLevel, "log-level", "info", "least severe messages to log, in the sandbox's folder: debug, info, warn or error")
	flags.DurationVar(&u.timeout, "timeout", time.Minute, "how long to wait until the pods are ready; 0 does not wait")
	return c
}

func (u *upFlags) run(c *cobra.Command) error {
	if err := u.check(c.Flags()); err != nil {
		return err
	}
	manifests, err := cluster.Load(u.manifests) // before anything is begun
	if err != nil {
		return err
	}
	client, started, err := u.start(c, u.config, asked(c.Flags()))
	if err != nil {
		return err
	}
	if started || len(u.manifests) == 0 {
		fmt.Fprintf(c.OutOrStdout(), "sandbox %s is up\n", u.name)
	}
	if len(u.manifests) == 0 {
		return nil
	}
	changes, err := client.Apply(c.Context(), manifests, false)
	if err != nil {
		return err
	}
	printChanges(c, changes)
	return waitReady(c.Context(), client, podsOf(changes), u.timeout)
}

// asked are the flags that were given.
func asked(flags *pflag.FlagSet) []string {
	var names []string
	flags.Visit(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

func (u *upFlags) check(flags *pflag.FlagSet) error {
	switch u.family {
	case "dual":
	case "ipv4":
		u.config.IPv4Only = true
	default:
		return unknown("ip-family", u.family, "dual or ipv4")
	}
	switch u.config.Proxy {
	case "auto", "nftables", "iptables":
	default:
		return unknown("proxy-mode", u.config.Proxy, "auto, nftables or iptables")
	}
	if !u.proxy && !flags.Changed("proxy-mode") {
		u.config.Proxy = ""
	}
	if _, err := zap.ParseAtomicLevel(u.config.LogLevel); err != nil {
		return unknown("log-level", u.config.LogLevel, "debug, info, warn or error")
	}
	for i, dir := range u.config.AllowHostPaths {
		abs, err := filepath.Abs(dir)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			return usageError{fmt.Errorf("--allow-host-path: %w", err)}
		}
		u.config.AllowHostPaths[i] = abs
	}
	return nil
}

func newSandboxDown(f *sandboxFlags) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove the sandbox, whatever state it is in",
		Long: `Down ends all pods and removes the sandbox's namespaces, links, mounts, cgroups and files, also after a crash, and
nothing else. If there is no such sandbox, it does nothing.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			root, err := f.root()
			if err != nil {
				return err
			}
			names := []string{f.name}
			if all {
				if names, err = cluster.List(root); err != nil {
					return err
				}
			}
			var errs []error
			for _, name := range names {
				removed, err := cluster.Down(c.Context(), root, name, versionString())
				switch {
				case err != nil:
					errs = append(errs, err)
				case removed:
					fmt.Fprintf(c.OutOrStdout(), "sandbox %s is down\n", name)
				default:
					fmt.Fprintf(c.OutOrStdout(), "there is no sandbox %s\n", name)
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all sandboxes of this user")
	return c
}

func newSandboxList(f *sandboxFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List this user's sandboxes",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			root, err := f.root()
			if err != nil {
				return err
			}
			all, err := cluster.Summaries(c.Context(), root, versionString())
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range all {
				rows = append(rows, summaryRow(s, time.Now()))
			}
			return cluster.PrintRows(c.OutOrStdout(), []string{"NAME", "STATUS", "PODS", "PROXY", "PID", "AGE"}, rows)
		},
	}
}

func summaryRow(s cluster.Summary, now time.Time) []string {
	row := []string{s.Name, "down", "-", "-", "-", "-"}
	if s.PID != 0 {
		row[4] = strconv.Itoa(s.PID)
	}
	if !s.Created.IsZero() {
		row[5] = now.Sub(s.Created).Truncate(time.Second).String()
	}
	switch {
	case s.Err != nil:
		row[1] = "not answering: " + s.Err.Error()
	case s.Status != nil:
		row[1], row[2] = "up", fmt.Sprintf("%d/%d", s.Status.Ready, s.Status.Pods)
		if s.Status.Proxy != "" {
			row[3] = s.Status.Proxy
		}
	}
	return row
}
