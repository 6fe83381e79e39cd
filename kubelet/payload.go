package kubelet

import (
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// payload is what a volume of files shows: content and mode by path below its folder.
type payload map[string]payloadFile

type payloadFile struct {
	data []byte
	mode int32
}

const defaultFileMode = 0o644

// payloadOf computes the files of a configMap, secret, downwardAPI or projected volume. ok is false for other kinds.
func (s *source) payloadOf(v *v1.Volume) (files payload, ok bool, err error) {
	files = payload{}
	switch {
	case v.ConfigMap != nil:
		err = s.addConfigMap(files, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional, mode(v.ConfigMap.DefaultMode))
	case v.Secret != nil:
		err = s.addSecret(files, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional, mode(v.Secret.DefaultMode))
	case v.DownwardAPI != nil:
		err = s.addDownward(files, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		err = s.addProjected(files, v.Projected)
	default:
		return nil, false, nil
	}
	if err != nil {
		return nil, true, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return files, true, nil
}

func mode(m *int32) int32 {
	if m == nil {
		return defaultFileMode
	}
	return *m
}

func (s *source) addProjected(files payload, p *v1.ProjectedVolumeSource) error {
	fallback := mode(p.DefaultMode)
	for i := range p.Sources {
		var err error
		switch from := &p.Sources[i]; {
		case from.ConfigMap != nil:
			err = s.addConfigMap(files, from.ConfigMap.Name, from.ConfigMap.Items, from.ConfigMap.Optional, fallback)
		case from.Secret != nil:
			err = s.addSecret(files, from.Secret.Name, from.Secret.Items, from.Secret.Optional, fallback)
		case from.DownwardAPI != nil:
			err = s.addDownward(files, from.DownwardAPI.Items, fallback)
		case from.ServiceAccountToken != nil:
			var token []byte
			if token, err = s.token.token(s.pod, from.ServiceAccountToken.Audience); err == nil {
				err = files.add(from.ServiceAccountToken.Path, token, fallback)
			}
		default:
			err = fmt.Errorf("projected.sources[%d] is of no kind that is supported", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *source) addConfigMap(files payload, name string, items []v1.KeyToPath, optional *bool, fallback int32) error {
	m, found := s.configMap(name)
	if !found && !isTrue(optional) {
		return fmt.Errorf("configmap %q not found", name)
	}
	data := map[string][]byte{}
	if found {
		for key, value := range m.Data {
			data[key] = []byte(value)
		}
		for key, value := range m.BinaryData {
			data[key] = value
		}
	}
	return files.addItems("configmap "+name, data, items, isTrue(optional), fallback)
}

func (s *source) addSecret(files payload, name string, items []v1.KeyToPath, optional *bool, fallback int32) error {
	m, found := s.secret(name)
	if !found && !isTrue(optional) {
		return fmt.Errorf("secret %q not found", name)
	}
	var data map[string][]byte
	if found {
		data = m.Data
	}
	return files.addItems("secret "+name, data, items, isTrue(optional), fallback)
}

// addItems adds all keys under their names, or, if there are items, only these where they say.
func (p payload) addItems(from string, data map[string][]byte, items []v1.KeyToPath, optional bool, fallback int32) error {
	if len(items) == 0 {
		for _, key := range sortedKeys(data) {
			if err := p.add(key, data[key], fallback); err != nil {
				return fmt.Errorf("%s: %w", from, err)
			}
		}
		return nil
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s references non-existent key: %s", from, item.Key)
		}
		m := fallback
		if item.Mode != nil {
			m = *item.Mode
		}
		if err := p.add(item.Path, content, m); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return nil
}

func (s *source) addDownward(files payload, items []v1.DownwardAPIVolumeFile, fallback int32) error {
	for i := range items {
		item := &items[i]
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = s.field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = s.resourceField(item.ResourceFieldRef, nil)
		default:
			err = fmt.Errorf("neither fieldRef nor resourceFieldRef")
		}
		if err != nil {
			return fmt.Errorf("downwardAPI %s: %w", item.Path, err)
		}
		m := fallback
		if item.Mode != nil {
			m = *item.Mode
		}
		if err := files.add(item.Path, []byte(value), m); err != nil {
			return err
		}
	}
	return nil
}

// add refuses what would lead out of the volume or hide how it is updated.
func (p payload) add(name string, data []byte, mode int32) error {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || strings.HasPrefix(clean, "..") || clean == "." || slices.Contains(strings.Split(name, "/"), "..") {
		return fmt.Errorf("path %q must be relative, not lead upwards and not begin with two dots", name)
	}
	p[clean] = payloadFile{data, mode}
	return nil
}
