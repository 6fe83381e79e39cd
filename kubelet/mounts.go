package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// mounts are a container's, in the order of its volumeMounts, after the files that every container has.
func (v *volumes) mounts(s *source, c *v1.Container, env []string, etc string) ([]mount, error) {
	readOnlyRoot := c.SecurityContext != nil && isTrue(c.SecurityContext.ReadOnlyRootFilesystem)
	var out []mount
	for _, file := range []string{"hosts", "hostname", "resolv.conf"} {
		target := "/etc/" + file
		if !mountedAt(c, target) {
			out = append(out, mount{Source: filepath.Join(etc, file), Target: target, ReadOnly: readOnlyRoot})
		}
	}
	if automounts(s.pod) && !mountedAt(c, accountFolder) {
		out = append(out, mount{Source: filepath.Join(v.dir, accountVolume), Target: accountFolder, ReadOnly: true})
	}
	for i := range c.VolumeMounts {
		m, err := v.mount(&c.VolumeMounts[i], env)
		if err != nil {
			return nil, fmt.Errorf("volumeMounts[%d] (%s): %w", i, c.VolumeMounts[i].Name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func mountedAt(c *v1.Container, target string) bool {
	for _, m := range c.VolumeMounts {
		if filepath.Clean(m.MountPath) == target {
			return true
		}
	}
	return false
}

func (v *volumes) mount(m *v1.VolumeMount, env []string) (mount, error) {
	source, ok := v.sources[m.Name]
	if !ok {
		return mount{}, errors.New("no such volume")
	}
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var unknown string
		sub = expand(m.SubPathExpr, func(name string) (string, bool) {
			for _, e := range env {
				if value, ok := strings.CutPrefix(e, name+"="); ok {
					return value, true
				}
			}
			unknown = name
			return "", false
		})
		if unknown != "" {
			return mount{}, fmt.Errorf("subPathExpr: missing value for %q", unknown)
		}
	}
	if sub != "" {
		if !filepath.IsLocal(sub) {
			return mount{}, fmt.Errorf("subPath %q must be relative and not lead upwards", sub)
		}
	}
	target := m.MountPath
	if !filepath.IsAbs(target) {
		target = "/" + target
	}
	return mount{Source: source, Target: filepath.Clean(target), SubPath: sub, ReadOnly: m.ReadOnly || v.files[m.Name]}, nil
}

// writeEtc writes the files of /etc that a pod's containers share.
func writeEtc(dir string, m machine, content map[string]string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	for _, name := range sortedKeys(content) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content[name]), 0o644); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(path, 0o644), m.Own(path, 0, 0)); err != nil {
			return err
		}
	}
	return nil
}
