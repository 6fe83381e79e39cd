package kubelet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

// accountFolder is where a pod finds its service account.
const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

// tokenLifetime is that of the tokens that the API server issues for pods.
const tokenLifetime = 3607 * time.Second

// tokenMaker is the authority behind the service account's files. They are as a program expects them, but there is no
// API server that would accept them.
type tokenMaker struct {
	key   *ecdsa.PrivateKey
	ca    []byte // PEM
	clock clock.PassiveClock
}

func newTokenMaker(c clock.PassiveClock) (*tokenMaker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	now := c.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kubernetes"},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of service accounts: %w", err)
	}
	return &tokenMaker{key: key, ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), clock: c}, nil
}

// token is a JWT (ES256) for the pod's service account.
func (t *tokenMaker) token(pod *v1.Pod, audience string) ([]byte, error) {
	if audience == "" {
		audience = "https://kubernetes.default.svc"
	}
	now := t.clock.Now()
	claims := map[string]any{
		"aud": []string{audience}, "iss": "https://kubernetes.default.svc",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLifetime).Unix(),
		"sub": "system:serviceaccount:" + pod.Namespace + ":" + serviceAccount(pod),
		"kubernetes.io": map[string]any{
			"namespace":      pod.Namespace,
			"pod":            map[string]string{"name": pod.Name, "uid": string(pod.UID)},
			"serviceaccount": map[string]string{"name": serviceAccount(pod)},
		},
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + encode(body)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return []byte(signed + "." + encode(signature)), nil
}

// account is the files of a pod's service account.
func (s *source) account() (payload, error) {
	token, err := s.token.token(s.pod, "")
	if err != nil {
		return nil, err
	}
	return payload{
		"ca.crt":    {s.token.ca, defaultFileMode},
		"namespace": {[]byte(s.pod.Namespace), defaultFileMode},
		"token":     {token, defaultFileMode},
	}, nil
}
