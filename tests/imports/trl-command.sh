trl sft --model_name_or_path org/name --dataset_name org/chat --use_peft --lora_r 32 \
  --learning_rate 2e-4 --max_length 2048
